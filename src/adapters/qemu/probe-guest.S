/*
 * The smallest guest that does what every kernel does when it starts: protected mode, page tables, long mode, an exception
 * through its own interrupt table. Then it writes its command line to the serial port, tells the debug-exit device (if there
 * is one), and halts. A machine on which this runs can run kernels; one that merely opens /dev/kvm proves nothing.
 *
 * Multiboot 1 (flat, with load addresses): QEMU starts it by -kernel. probe-guest.ts holds its bytes; to make them again:
 *   as --64 probe-guest.S -o p.o && ld -Ttext 0x100000 --oformat binary -e start p.o -o p.bin && base64 -w 0 p.bin
 */
        .set    MAGIC, 0x1badb002
        .set    FLAGS, 0x00010000        /* the load addresses below are valid */
        .set    TABLES, 0x200000         /* PML4, PDPT, PD, IDT: one page each */
        .set    IDT, TABLES + 0x3000

        .text
        .code32
        .globl  start
header: .long   MAGIC, FLAGS, -(MAGIC + FLAGS)
        .long   header, header, end, end, start

start:  cli
        mov     %ebx, %ebp               /* multiboot information */
        mov     $0x80000, %esp
        cld
        mov     $TABLES, %edi
        xor     %eax, %eax
        mov     $0x1000, %ecx
        rep stosl
        movl    $TABLES + 0x1003, TABLES
        movl    $TABLES + 0x2003, TABLES + 0x1000
        mov     $TABLES + 0x2000, %edi
        mov     $0x83, %eax              /* present, writable, 2 MiB */
        mov     $512, %ecx
1:      mov     %eax, (%edi)
        add     $0x200000, %eax
        add     $8, %edi
        loop    1b

        mov     %cr4, %eax
        or      $0x20, %eax              /* PAE */
        mov     %eax, %cr4
        mov     $TABLES, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx        /* EFER.LME */
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     %cr0, %eax
        or      $0x80000001, %eax
        mov     %eax, %cr0
        lgdt    gdtr
        ljmp    $8, $long

        .code64
long:   mov     $16, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $invalid, %eax
        mov     $IDT + 6 * 16, %edi      /* vector 6: invalid opcode */
        mov     %ax, (%rdi)
        movw    $8, 2(%rdi)
        movw    $0x8e00, 4(%rdi)
        shr     $16, %eax
        mov     %ax, 6(%rdi)
        lidt    idtr
        ud2
        jmp     halt                     /* only the exception leads on */

invalid:
        mov     %ebp, %ebp
        mov     16(%rbp), %esi           /* command line */
2:      lodsb
        test    %al, %al
        jz      done
        call    put
        jmp     2b
done:   mov     $10, %al
        call    put
        mov     $0xf4, %dx
        mov     $0x10, %al
        out     %al, %dx
halt:   hlt
        jmp     halt

put:    mov     %al, %ah
        mov     $0x3fd, %dx
3:      in      %dx, %al
        test    $0x20, %al
        jz      3b
        mov     $0x3f8, %dx
        mov     %ah, %al
        out     %al, %dx
        ret

        .balign 8
gdt:    .quad   0, 0x00209a0000000000, 0x0000920000000000
gdtr:   .word   23
        .long   gdt, 0
idtr:   .word   16 * 7 - 1
        .quad   IDT
end:
