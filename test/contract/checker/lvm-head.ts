import { gunzipSync } from 'node:zlib';

/**
 * The first MiB of a physical volume as LVM 2.03.16 (Debian 12) wrote it: group vg0, extents of 4 MiB from 1 MiB on; its volume `root` is 5 extents from
 * the 10th and 21 from the 16th.
 */
export const lvmHead: Uint8Array = gunzipSync(
  Buffer.from(
    [
      'H4sIAAAAAAACA+1Y/07bMBAu04SE98f2CFbQJEBzcUybpkybFiBD3dqCAMEoQlmauiGsqUOSeu3QHmHvscfjEWYnLTDK+AONTdP8Vant84/77i',
      '5nKVcoKPzPqFtrdn2rac+Mx0uzHxpQyvcbBGKs1wc0fGfu+zuhFwVb3XaJc6819LmeeKeb9ntaKHycy3c+u1vRZPri6a3Tj8Qzo8KhoKCgoKCg',
      'oKCgoKDwYHi53voGs4+94VHZeh7j5tLrmdu+12bzZutx3i5cPPmuvPfvg/sYnoOgA19Brd1ubVQZ4qd1jk70sIu8xHdRKRx5aK35maBP5mEHH2',
      'ogoWd9JjbooMvi0E3l3h4PiZhJ3XSQiPGRtmPv1lq2tVa3tRdQjKwN2R7s1PZs7Rh0e66frTsGdJjSfuokwRcqBKZeJSB0h06PixHOutG4S1O3',
      '46au47EooEkmA9HJKAk8t+dw1huEQnouZPzKprx+gWQBA8kKBpIlDCRrGEgWMVBexdBAh/LAkwS0ZdFd7jEWYQ1cN8iq17fWrb3Mop8MEOsn7F',
      'dwhWAMIuqIjbF0DMElU449NujL8UoFfBU/IJ55uEn7NHZT2oHtUZ6EnMZJwPqQFPFKUTcWyCJcIJgQhMtINxdXYUNMNhmHZAXi0iqurpZNoYMY',
      'AHisLx0pSWl7wqnwbR6c/cwxcDNmg0gDEwUyeoJ54sVBlOYC7SAOUgq7MQsh972YCmYQnUH5ilw5pSi8ks2JTc4JS7Lo81Cbm4f1oD8YQh5Co6',
      'ibxVIJdT3EDaMK53W429iG2zu23djeczYOm1ajtg7fYDg0DccoXR2YBqH0o16plkvYqFZNceyvTVbp+1fzn6j8v3f+95h/k3bMWHrJ28qA7vyz',
      'rBsev+5j0dmv7dam2E6l2nQ2uzLEfiijMqFNwESkC4qZcU4euCwM4xhOVpcBSEdR5s0kFRcM7UiisnO5RAdjSUYLaCJmgrKOwbHwzlgVmVZVvq',
      'mK6PfWZWS6smj8lstYx6sEP9Bl3PVjmqQszi5k1BUiUkzFsSJ9/+CFXMEET13I183+ASjIp5BOGgAA',
    ].join(''),
    'base64',
  ),
);
