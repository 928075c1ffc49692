import { useState } from 'react';

/** `of`: what it is, where that cannot be seen. */
export function CopyButton({ text, of }: { text: string; of?: string }) {
  const name = of ? `Copy ${of}` : 'Copy';
  const [said, setSaid] = useState(name);

  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      setSaid('Copied');
    } catch {
      // A page without TLS has no clipboard.
      setSaid('Cannot copy here');
    }
    setTimeout(() => setSaid(name), 2_000);
  }

  return (
    <button type="button" className="button quiet" aria-live="polite" onClick={copy}>
      {said}
    </button>
  );
}
