import type { Letter } from '../api/types';
import { count } from '../format';
import { formatRoute } from '../route';
import { useSession } from '../session';
import { titleOf } from '../targets';
import { Action, useRequest } from '../ui/action';
import { CopyButton } from '../ui/copy';
import { Dialog } from '../ui/dialog';
import { Fact } from '../ui/fact';
import { Failure } from '../ui/states';
import { Time } from '../ui/time';
import { content, nameOf } from './letters';

interface Props {
  letter: Letter;
  onRedrive: () => Promise<void>;
  onDiscard: () => void;
  onClose: () => void;
}

export function LetterDrawer({ letter, onRedrive, onDiscard, onClose }: Props) {
  const { role } = useSession();
  const { isBusy, error, run } = useRequest();
  const { message_id, stream, key, error_type, reason } = letter;
  const text = content(letter);

  return (
    <Dialog
      kind="drawer"
      title={nameOf(letter)}
      onClose={onClose}
      footer={
        <>
          <Action className="button danger" disabled={isBusy} onClick={onDiscard}>
            Discard…
          </Action>
          <Action className="button primary" disabled={isBusy} onClick={() => run(onRedrive)}>
            {isBusy ? 'Redriving…' : 'Redrive'}
          </Action>
        </>
      }
    >
      {error && <Failure error={error} />}
      <section aria-label="Reason">
        <h3>
          <code>{error_type}</code>
        </h3>
        <p className="reason">{reason ?? 'The operator sees why: it may quote the document.'}</p>
      </section>
      <dl className="facts">
        <Fact name="Target">{titleOf(letter.target)}</Fact>
        <Fact name="Stream">{stream}</Fact>
        <Fact name="Key">{key !== null && <code className="wrap">{key}</code>}</Fact>
        <Fact name="Operation">{letter.op}</Fact>
        <Fact name="Version">{letter.version !== null && <code>{letter.version}</code>}</Fact>
        <Fact name="Change">{letter.change_id !== null && <code>{letter.change_id}</code>}</Fact>
        <Fact name="Attempts">{letter.attempts !== null && count(letter.attempts)}</Fact>
        <Fact name="First seen">{letter.first_seen !== null && <Time at={letter.first_seen} />}</Fact>
        <Fact name="Failed">{letter.failed_at !== null && <Time at={letter.failed_at} />}</Fact>
        <Fact name="Message" isWide>
          <code className="wrap">{message_id}</code>
        </Fact>
      </dl>
      {stream !== null && key !== null && (
        <p>
          <a href={formatRoute('outbox', { stream, key })}>This key in the outbox</a>
        </p>
      )}
      <section aria-labelledby="letter-content">
        <div className="section-head">
          <h3 id="letter-content">{letter.body === null ? 'Document' : 'Message, as it came'}</h3>
          {text !== null && <CopyButton text={text} />}
        </div>
        {text === null ? (
          <p className="hint">
            {role === 'reader'
              ? 'The operator sees it.'
              : letter.document_bytes
                ? `It has ${count(letter.document_bytes)} bytes, which is too long to be listed.`
                : 'The letter has none: its key is read anew when it is redriven.'}
          </p>
        ) : (
          <pre className="document" tabIndex={0} role="region" aria-labelledby="letter-content">
            {text}
          </pre>
        )}
      </section>
    </Dialog>
  );
}
