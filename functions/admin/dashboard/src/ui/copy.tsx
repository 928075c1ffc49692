import { useState } from 'react';

export function CopyButton({ text }: { text: string }) {
  const [said, setSaid] = useState('Copy');

  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      setSaid('Copied');
    } catch {
      // A page without TLS has no clipboard.
      setSaid('Cannot copy here');
    }
    setTimeout(() => setSaid('Copy'), 2_000);
  }

  return (
    <button type="button" className="button quiet" aria-live="polite" onClick={copy}>
      {said}
    </button>
  );
}
