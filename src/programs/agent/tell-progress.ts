import { limits } from '#base/limits.ts';
import type { UploadProgress } from '#programs/guest-backup/upload-messages.ts';

/** Tells people how far a request is. */
export type TellProgress = (text: string, doneBytes?: number | null, totalBytes?: number | null) => Promise<void>;

/** Passes on what is new, and of mere progress no more than the store should hear. */
export function slowly(
  tell: TellProgress,
): (text: string, progress: Pick<UploadProgress, 'doneBytes' | 'totalBytes'> | null) => void {
  let [last, toldMs] = ['', 0];
  return (text, progress) => {
    if (text === last && performance.now() - toldMs < limits.progressTellMs) return;
    [last, toldMs] = [text, performance.now()];
    void tell(text, progress?.doneBytes ?? null, progress?.totalBytes ?? null).catch(() => {}); // for people only
  };
}
