import type { Validation, ValidationBegun } from '../api/types';
import { plural } from '../format';
import { useApi } from '../session';
import { useToast } from '../shell/toasts';
import { streamIn } from '../targets';
import { Confirm } from '../ui/confirm';
import { portions, repairable } from './rounds';

/** Has documents repaired that are confirmed to differ in this target. */
export function useRepair(stream: string, target: string, onAsked: () => void) {
  const api = useApi();
  const toast = useToast();
  const done = (wanted: number) => {
    onAsked();
    toast({
      tone: 'good',
      title: `${plural(wanted, 'document')} to be repaired`,
      body: 'They are put into the log again within a minute, and then compared once more.',
    });
  };

  return {
    /** What has changed since it was shown is left out. */
    async these(keys: string[]) {
      let wanted = 0;
      for (const portion of portions(keys)) {
        const request = { stream, target, repair: true, keys: portion };
        wanted += (await api.send<ValidationBegun>('POST', '/api/validation', request)).wanted ?? 0;
      }
      done(wanted);
    },
    async all() {
      const request = { stream, target, repair: true, confirmed: true };
      done((await api.send<ValidationBegun>('POST', '/api/validation', request)).wanted ?? 0);
    },
  };
}

interface Props {
  row: Validation;
  onConfirm: () => Promise<void>;
  onClose: () => void;
}

export function RepairAll({ row: { stream, subscription, classes }, onConfirm, onClose }: Props) {
  const number = repairable(classes);
  return (
    <Confirm
      title={`Repair all of ${streamIn(stream, subscription)}?`}
      action="Repair all"
      isDisabled={number === 0}
      onConfirm={onConfirm}
      onClose={onClose}
    >
      <p>
        <strong>{plural(number, 'document')}</strong> of this stream in this target, whatever is filtered: all that {number === 1 ? 'is' : 'are'}{' '}
        confirmed to differ and can be repaired. The key of each is put into the log again, so that the document is read
        anew; nothing newer is overwritten.
      </p>
      <p className="hint">
        First write down some keys and both sides: after the repair they are equal, and nobody finds the cause any more.
      </p>
    </Confirm>
  );
}

