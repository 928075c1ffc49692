import { useState } from 'react';
import { useLive } from '../api/live';
import type { Validation as Row, Validations } from '../api/types';
import { formatRoute, replaceRoute, useRoute } from '../route';
import { Action } from '../ui/action';
import { Icon } from '../ui/icons';
import { Empty, Loaded } from '../ui/states';
import { DifferencesPanel } from './differences';
import { idOf, StreamsTable } from './streams-table';
import { Validate } from './validate';

const EVERY_MS = 5_000;

/** All streams in all their targets, and what differs in one of them. A link without a target means Elasticsearch. */
export function Validation() {
  const { filters } = useRoute();
  const { stream = '', target = 'elasticsearch' } = filters;
  const opened = idOf({ stream, subscription: target });
  const [asked, setAsked] = useState<Row | 'all' | null>(null);
  const list = useLive<Validations>('/api/validation', EVERY_MS);

  return (
    <div className="stack">
      <section className="panel" aria-labelledby="validation-heading">
        <div className="panel-head">
          <h2 id="validation-heading">Streams</h2>
          <p className="hint">Each source is compared with what its targets have, document by document</p>
          <Action disabled={!list.data?.streams.length} onClick={() => setAsked('all')}>
            <Icon name="play" />
            Validate all…
          </Action>
        </div>
        <Loaded of={list} lines={5}>
          {({ streams }) =>
            streams.length > 0 ? (
              <StreamsTable streams={streams} opened={opened} onValidate={setAsked} />
            ) : (
              <Empty title="No stream goes to Elasticsearch or ClickHouse">
                Define one with <code>sluice.define_stream</code>, then run the migrations.
              </Empty>
            )
          }
        </Loaded>
      </section>
      {/* Another one begins without the selection and the drawer of this one. */}
      {stream !== '' && (
        <DifferencesPanel
          key={opened}
          stream={stream}
          target={target}
          filters={filters}
          onFilter={(changed) => replaceRoute(formatRoute('validation', { ...filters, ...changed }))}
          onAsked={list.reload}
        />
      )}
      {asked && (
        <Validate stream={asked === 'all' ? null : asked} onAsked={list.reload} onClose={() => setAsked(null)} />
      )}
    </div>
  );
}
