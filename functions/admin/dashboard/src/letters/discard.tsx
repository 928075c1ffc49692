import { useState } from 'react';
import type { Discarded, Letter } from '../api/types';
import { plural } from '../format';
import { useApi } from '../session';
import { useToast } from '../shell/toasts';
import { Confirm } from '../ui/confirm';
import { nameOf } from './letters';

const LONGEST_REASON = 500;

interface Props {
  letters: Letter[];
  /** Says which are gone, also when it stopped at one that could not be discarded. */
  onDiscarded: (ids: string[]) => void;
  onClose: () => void;
}

export function Discard({ letters, onDiscarded, onClose }: Props) {
  const api = useApi();
  const toast = useToast();
  const [reason, setReason] = useState('');
  const [only] = letters;

  async function discard() {
    const gone: string[] = [];
    try {
      for (const { message_id } of letters) {
        await api.send<Discarded>('DELETE', `/api/dlq/${encodeURIComponent(message_id)}`, { reason: reason.trim() });
        gone.push(message_id);
      }
    } finally {
      onDiscarded(gone);
    }
    onClose();
    toast({ tone: 'good', title: `${plural(gone.length, 'letter')} discarded` });
  }

  return (
    <Confirm
      title={only && letters.length === 1 ? `Discard ${nameOf(only)}?` : `Discard ${plural(letters.length, 'letter')}?`}
      action="Discard"
      isDangerous
      isDisabled={reason.trim() === ''}
      onConfirm={discard}
      onClose={onClose}
    >
      <p>
        {letters.length === 1 ? 'The letter is' : 'The letters are'} deleted for good, and not written to the target. The
        reason is kept in the audit.
      </p>
      <label className="field">
        <span>Reason (required)</span>
        <textarea
          rows={3}
          required
          maxLength={LONGEST_REASON}
          value={reason}
          onChange={(event) => setReason(event.target.value)}
        />
      </label>
      <p className="hint">
        {reason.length} of {LONGEST_REASON} characters
      </p>
    </Confirm>
  );
}
