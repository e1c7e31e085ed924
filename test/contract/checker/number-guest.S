# A guest of one sector that the firmware boots from its disk. It counts: number n goes into sector 2 + n mod 1024, then into sector 1, every
# few milliseconds, going on where an earlier run ended. On the power button it writes "BYE!" behind the number and powers off.
# The bytes are in number-guest.ts:  as --32 number-guest.S && ld -m elf_i386 -Ttext 0x7c00 --oformat binary -e start
        .code16
        .global start
start:  cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        sti
        movb    %dl, drive
        movb    $0x42, %ah
        call    header                  # what an earlier run wrote
        movw    $0x602, %dx             # PM1 enable: the power button (bit 8)
        movw    $0x100, %ax
        outw    %ax, %dx
next:   incl    0x8000
        movl    0x8000, %eax
        andl    $1023, %eax
        addl    $2, %eax
        movl    %eax, lba
        movb    $0x43, %ah
        call    disk                    # the number into its own sector
        movb    $0x43, %ah
        call    header                  # then as the newest
        movb    $0x86, %ah              # wait 4 ms
        xorw    %cx, %cx
        movw    $4000, %dx
        int     $0x15
        movw    $0x600, %dx             # PM1 status
        inw     %dx, %ax
        testb   $1, %ah
        jz      next
        movl    $0x21455942, 0x8004     # "BYE!"
        movb    $0x43, %ah
        call    header
        movw    $0x604, %dx             # PM1 control: soft off
        movw    $0x2000, %ax
        outw    %ax, %dx
halt:   hlt
        jmp     halt
header: movl    $1, lba
disk:   xorb    %al, %al
        movb    drive, %dl
        movw    $packet, %si
        int     $0x13
        ret
packet: .byte   0x10, 0
        .word   1, 0x8000, 0
lba:    .long   0, 0
drive:  .byte   0
        .org    510
        .word   0xaa55
