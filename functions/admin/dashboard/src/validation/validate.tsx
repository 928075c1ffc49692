import { useState } from 'react';
import type { Validation, ValidationBegun, ValidationRequest } from '../api/types';
import { plural } from '../format';
import { useApi } from '../session';
import { useToast } from '../shell/toasts';
import { placeAt, streamIn } from '../targets';
import { Confirm } from '../ui/confirm';

const KINDS = {
  compare: { says: 'Compare only', asks: {} },
  repair: { says: 'Compare, and repair what is confirmed to differ', asks: { repair: true } },
  dry_run: { says: 'Dry run: compare, and say what a repair would write', asks: { repair: true, dry_run: true } },
} as const satisfies Record<string, { says: string; asks: ValidationRequest }>;
type Kind = keyof typeof KINDS;

interface Props {
  /** In its target. Null: all streams, in each of theirs. */
  stream: Validation | null;
  onAsked: () => void;
  onClose: () => void;
}

export function Validate({ stream, onAsked, onClose }: Props) {
  const api = useApi();
  const toast = useToast();
  const [kind, setKind] = useState<Kind>('compare');
  const name = stream && streamIn(stream.stream, stream.subscription);
  const isUnderWay = stream !== null && !['done', 'never'].includes(stream.state);

  async function ask() {
    const request: ValidationRequest = { ...KINDS[kind].asks, ...(stream && { stream: stream.stream, target: stream.subscription }) };
    const { streams } = await api.send<ValidationBegun>('POST', '/api/validation', request);
    onAsked();
    onClose();
    toast({
      tone: 'good',
      title: name ? `${name} is to be validated` : `${plural(new Set(streams.map((one) => one.stream)).size, 'stream')} to be validated`,
      body: 'The validator begins within a minute.',
    });
  }

  return (
    <Confirm
      title={name ? `Validate ${name}?` : 'Validate all streams?'}
      action="Validate"
      onConfirm={ask}
      onClose={onClose}
    >
      <p>
        {stream
          ? `Its source and its ${placeAt(stream.subscription)} are compared`
          : 'The source of each stream is compared with its index, and with its table of ClickHouse'}
        , document by document. What differs is looked at twice before it is confirmed.
      </p>
      <fieldset className="choices">
        <legend className="visually-hidden">What to do</legend>
        {(Object.keys(KINDS) as Kind[]).map((name) => (
          <label key={name}>
            <input type="radio" name="kind" checked={kind === name} onChange={() => setKind(name)} />
            {KINDS[name].says}
          </label>
        ))}
      </fieldset>
      {kind === 'repair' && (
        <p className="hint">
          A repair puts the key into the log again: the document is read anew, and nothing newer is overwritten.
        </p>
      )}
      {isUnderWay && <p className="hint">A round is under way. It is given up, and this one begins from the start.</p>}
    </Confirm>
  );
}
