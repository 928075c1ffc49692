import { useState } from 'react';
import { url } from '../api/client';
import { useLive } from '../api/live';
import type { Letter, Letters } from '../api/types';
import { count, plural } from '../format';
import { formatRoute, replaceRoute, useRoute } from '../route';
import { useToast } from '../shell/toasts';
import { isTarget, TARGETS } from '../targets';
import { Action } from '../ui/action';
import { Badge } from '../ui/badge';
import { StreamFilter, TargetFilter, TextFilter } from '../ui/filters';
import { RefreshToggle } from '../ui/refresh';
import { useSelection } from '../ui/selection';
import { Empty, Loaded } from '../ui/states';
import { Discard } from './discard';
import { LetterDrawer } from './letter-drawer';
import { errorTypes, matching, ordered, without } from './letters';
import { LettersTable } from './letters-table';
import { RedriveAll } from './redrive-all';
import { useRedrive } from './redrive-provider';
import { useSingleRedrive } from './single-redrive';

// Each refresh receives the messages of the queue, and costs requests there.
const EVERY_MS = 5_000;

export function DeadLetters() {
  const { target: named = '', stream = '', error_type = '', text = '' } = useRoute().filters;
  // What is listed is what "redrive all" means: an unknown name is no filter of either.
  const target = isTarget(named) ? named : '';
  const [isPaused, setPaused] = useState(false);
  const [opened, setOpened] = useState<Letter | null>(null);
  const [discarded, setDiscarded] = useState<Letter[] | null>(null);
  const [isAllAsked, setAllAsked] = useState(false);
  const { isRunning, start } = useRedrive();
  const toast = useToast();

  const list = useLive<Letters>(url('/api/dlq', { limit: 100, target, stream, error_type }), isPaused ? 0 : EVERY_MS);
  const loaded = ordered(list.data?.letters ?? []);
  const shown = matching(loaded, text);
  const { selected, rows: chosen, select, clear } = useSelection(shown, ({ message_id }) => message_id);

  const filter = (changed: Record<string, string>) =>
    replaceRoute(formatRoute('dead-letters', { target, stream, error_type, text, ...changed }));
  const isFiltered = target !== '' || stream !== '' || error_type !== '' || text !== '';

  const hide = (ids: string[]) => list.update((data) => without(data, ids));
  const redriveOne = useSingleRedrive(hide);
  const toastFailure = (error: Error) => toast({ tone: 'bad', title: 'Not redriven', body: error.message });

  function redriveChosen() {
    start({ message_ids: chosen.map(({ message_id }) => message_id) });
    clear();
  }

  return (
    <section className="panel" aria-labelledby="letters-heading">
      <div className="panel-head">
        <h2 id="letters-heading">Dead letters</h2>
        <RefreshToggle isPaused={isPaused} every="5 s" onToggle={() => setPaused(!isPaused)} />
      </div>
      <div className="toolbar" role="search" aria-label="Dead letters">
        <TargetFilter
          value={target}
          targets={Object.keys(TARGETS)}
          all="All targets"
          onChange={(value) => filter({ target: value })}
        />
        <StreamFilter value={stream} onChange={(value) => filter({ stream: value })} />
        <TextFilter
          label="Error type"
          value={error_type}
          placeholder="All error types"
          suggestions={errorTypes(loaded)}
          onChange={(value) => filter({ error_type: value })}
        />
        <TextFilter
          label="Search in what is loaded"
          value={text}
          placeholder="Key, reason, document…"
          isWide
          onChange={(value) => filter({ text: value })}
        />
        {isFiltered && (
          <button
            type="button"
            className="button quiet"
            onClick={() => filter({ target: '', stream: '', error_type: '', text: '' })}
          >
            Clear
          </button>
        )}
      </div>
      <div className="toolbar actions" role="group" aria-label="Actions">
        <span role="status" className="selected">
          {chosen.length > 0 ? `${count(chosen.length)} selected` : 'None selected'}
        </span>
        <Action disabled={chosen.length === 0 || isRunning} onClick={redriveChosen}>
          Redrive selected
        </Action>
        <Action disabled={chosen.length === 0} onClick={() => setDiscarded(chosen)}>
          Discard selected…
        </Action>
        <Action className="button push" disabled={isRunning || !list.data?.depth} onClick={() => setAllAsked(true)}>
          Redrive all…
        </Action>
      </div>
      <Loaded of={list} lines={10}>
        {({ depth, is_sample }) => (
          <>
            {shown.length > 0 ? (
              <LettersTable
                letters={shown}
                selected={selected}
                onSelect={select}
                onOpen={setOpened}
                onRedrive={(letter) => redriveOne(letter).catch(toastFailure)}
              />
            ) : loaded.length > 0 ? (
              <Empty title="Nothing loaded has this text">
                The search looks at what is loaded, not at all letters.
              </Empty>
            ) : depth === 0 ? (
              <Empty title="No dead letters">Every change was written to its targets, or is on its way.</Empty>
            ) : is_sample ? (
              <Empty title="None among those that were looked at">There are more letters.</Empty>
            ) : isFiltered ? (
              <Empty title="No dead letter matches" />
            ) : (
              <Empty title="None to be seen now">
                The letters in the queue are in flight: they are back in a moment.
              </Empty>
            )}
            {depth > 0 && (
              <div className="table-foot">
                <span role="status">
                  {plural(shown.length, 'letter')} shown of about {count(depth)}
                </span>
                {is_sample && <Badge tone="warn">A sample: there are letters that were not looked at</Badge>}
              </div>
            )}
          </>
        )}
      </Loaded>

      {opened && (
        <LetterDrawer
          letter={opened}
          onRedrive={async () => {
            await redriveOne(opened);
            setOpened((now) => (now === opened ? null : now));
          }}
          onDiscard={() => setDiscarded([opened])}
          onClose={() => setOpened(null)}
        />
      )}
      {discarded && (
        <Discard
          letters={discarded}
          onDiscarded={(ids) => {
            hide(ids);
            if (opened && ids.includes(opened.message_id)) {
              setOpened(null);
            }
          }}
          onClose={() => setDiscarded(null)}
        />
      )}
      {isAllAsked && (
        <RedriveAll
          filter={{ ...(target && { target }), ...(stream && { stream }), ...(error_type && { error_type }) }}
          isSearched={text !== ''}
          onClose={() => setAllAsked(false)}
        />
      )}
    </section>
  );
}
