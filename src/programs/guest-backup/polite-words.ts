/** What is said to end a polite thread: asked, and answered once nothing in it loads native code any more. */
export const endWord = 'end';
export const mayEndWord = 'may-end';
