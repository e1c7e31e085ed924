/** A server's management controller, asked over the network. */
export interface Bmc {
  /** Raises AppError timeout/unavailable/denied when the controller does not answer or refuses. */
  readPower(signal?: AbortSignal): Promise<'on' | 'off'>;
  /** Returns when the command was accepted; whether the power is really off is for `readPower` to say. */
  powerOff(signal?: AbortSignal): Promise<void>;
  powerOn(signal?: AbortSignal): Promise<void>;
}
