import type { Conflict } from '../api/types';
import { count, plural } from '../format';
import { formatRoute } from '../route';
import { useSession } from '../session';
import { Badge } from '../ui/badge';
import { CopyButton } from '../ui/copy';
import { Dialog } from '../ui/dialog';
import { Fact } from '../ui/fact';
import { type Column, Table } from '../ui/table';
import { Time } from '../ui/time';
import { type Field, fieldsOf } from './fields';
import { Result } from './result';

export function ConflictDrawer({ conflict, onClose }: { conflict: Conflict; onClose: () => void }) {
  const { role } = useSession();
  const { number, at, stream, key, subject, op, applied } = conflict;
  return (
    <Dialog kind="drawer" isWide title={`${stream} ${key}`} onClose={onClose}>
      <dl className="facts">
        <Fact name="Result">
          <Result applied={applied} />
        </Fact>
        <Fact name="Operation">{op}</Fact>
        <Fact name="When">
          <Time at={at} />
        </Fact>
        <Fact name="Number">
          <code>{number}</code>
        </Fact>
        <Fact name="By" isWide>
          <code className="wrap">{subject}</code>
        </Fact>
      </dl>
      <p>
        {applied
          ? 'The client had another document than there was. Its change was written all the same: the last to arrive wins.'
          : 'The client had another document than there was, and its change was not written.'}{' '}
        <a href={formatRoute('outbox', { stream, key })}>This key in the outbox</a>
      </p>
      <section aria-labelledby="conflict-sides">
        <div className="section-head">
          <h3 id="conflict-sides">Both sides</h3>
        </div>
        {role === 'operator' ? <Sides conflict={conflict} /> : <p className="hint">The operator sees them.</p>}
      </section>
    </Dialog>
  );
}

const COLUMNS: Column<Field>[] = [
  { name: 'Field', cell: ({ name }) => <code className="wrap">{name}</code> },
  { name: 'The client sent', cell: ({ sent, state }) => <Value of={sent} none="" isMarked={state === 'differs'} /> },
  { name: 'There was', cell: ({ there, state }) => <Value of={there} none="none" isMarked={state === 'differs'} /> },
  { name: 'Compared', cell: ({ state }) => <State of={state} /> },
];

function Sides({ conflict: { op, fields, fields_bytes, document, document_bytes } }: { conflict: Conflict }) {
  const isTooLong = (text: string | null, bytes: number | null) => text === null && bytes !== null;
  const rows = fieldsOf(fields, document);
  return (
    <>
      {isTooLong(fields, fields_bytes) && (
        <p className="hint">What the client sent has {count(fields_bytes ?? 0)} bytes, which is too long to be listed.</p>
      )}
      {isTooLong(document, document_bytes) && (
        <p className="hint">The document has {count(document_bytes ?? 0)} bytes, which is too long to be listed.</p>
      )}
      {op === 'delete' && <p>The client deleted the document as it had it.</p>}
      {document_bytes === null && <p>There was no such document any more.</p>}
      {rows.length > 0 && (
        <>
          <div className="section-head">
            <p role="status">{plural(rows.filter(({ state }) => state === 'differs').length, 'field differs', 'fields differ')}.</p>
            <span>
              {fields !== null && <CopyButton text={fields} of="what was sent" />}
              {document !== null && <CopyButton text={document} of="what there was" />}
            </span>
          </div>
          <Table caption="Both sides, field by field" columns={COLUMNS} rows={rows} id={({ name }) => name} />
        </>
      )}
    </>
  );
}

function Value({ of, none, isMarked }: { of: string | null; none: string; isMarked: boolean }) {
  if (of === null) {
    return <span className="hint">{none}</span>;
  }
  return <code className="wrap value">{isMarked ? <mark>{of}</mark> : of}</code>;
}

function State({ of }: { of: Field['state'] }) {
  if (of === 'not sent') {
    return <span className="hint">not sent</span>;
  }
  return <Badge tone={of === 'differs' ? 'warn' : 'good'}>{of}</Badge>;
}
