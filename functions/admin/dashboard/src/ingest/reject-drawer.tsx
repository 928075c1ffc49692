import type { Reject } from '../api/types';
import { count } from '../format';
import { formatRoute } from '../route';
import { useSession } from '../session';
import { CopyButton } from '../ui/copy';
import { Dialog } from '../ui/dialog';
import { Fact } from '../ui/fact';
import { Time } from '../ui/time';

export function RejectDrawer({ reject, onClose }: { reject: Reject; onClose: () => void }) {
  const { role } = useSession();
  const { id, source, key, reason, message, payload, payload_bytes, resolved_at } = reject;
  return (
    <Dialog kind="drawer" title={key ?? `Reject ${id}`} onClose={onClose}>
      <section aria-label="Reason">
        <h3>
          <code>{reason}</code>
        </h3>
        <p className="reason">{message}</p>
      </section>
      <dl className="facts">
        <Fact name="Source">{source}</Fact>
        <Fact name="Last updated">{reject.newer !== null && <Time at={reject.newer} />}</Fact>
        <Fact name="First seen">
          <Time at={reject.first_at} />
        </Fact>
        <Fact name="Last seen">
          <Time at={reject.last_at} />
        </Fact>
        <Fact name="Times">{count(reject.times)}</Fact>
        <Fact name="Resolved">{resolved_at !== null && <Time at={resolved_at} />}</Fact>
      </dl>
      {key !== null && (
        <p>
          <a href={formatRoute('outbox', { key })}>This key in the outbox</a>
        </p>
      )}
      <section aria-labelledby="reject-payload">
        <div className="section-head">
          <h3 id="reject-payload">Item, as it came</h3>
          {payload !== null && <CopyButton text={payload} />}
        </div>
        {payload === null ? (
          <p className="hint">
            {role === 'reader' ? 'The operator sees it.' : `It has ${count(payload_bytes)} bytes, which is too long to be listed.`}
          </p>
        ) : (
          <pre className="document" tabIndex={0} role="region" aria-labelledby="reject-payload">
            {payload}
          </pre>
        )}
      </section>
    </Dialog>
  );
}
