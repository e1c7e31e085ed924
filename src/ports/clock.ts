/** Time, passed in. `bootMs` counts since boot, never steps and includes suspend; `wallMs` is for people. */
export interface Clock {
  bootMs(): number;
  wallMs(): number;
}
