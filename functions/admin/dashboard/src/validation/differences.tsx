import { useEffect, useRef, useState } from 'react';
import { url } from '../api/client';
import { useLive } from '../api/live';
import type { Difference, Differences, Validation } from '../api/types';
import { count, plural } from '../format';
import { formatRoute } from '../route';
import { useToast } from '../shell/toasts';
import { placeAt, streamIn } from '../targets';
import { Action, useRequest } from '../ui/action';
import { Badge } from '../ui/badge';
import { useSelection } from '../ui/selection';
import { SelectAll } from '../ui/select-all';
import { Empty, Loaded } from '../ui/states';
import { type Column, Table } from '../ui/table';
import { Time } from '../ui/time';
import { DifferenceDrawer } from './difference-drawer';
import { RepairAll, useRepair } from './repair';
import { CLASSES, isRepairable, repairable, STATES, toneOf, words } from './rounds';

const EVERY_MS = 5_000;
const keyOf = ({ key }: Difference) => key;

interface Props {
  stream: string;
  target: string;
  filters: Record<string, string>;
  onFilter: (changed: Record<string, string>) => void;
  onAsked: () => void;
}

export function DifferencesPanel({ stream, target, filters, onFilter, onAsked }: Props) {
  const { class: name = '', state = '' } = filters;
  const title = streamIn(stream, target);
  const [opened, setOpened] = useState<Difference | null>(null);
  const [isAllAsked, setAllAsked] = useState(false);
  const { isBusy, run } = useRequest();
  const toast = useToast();

  const path = `/api/validation/${encodeURIComponent(stream)}`;
  // The documents are read when somebody opens one.
  const list = useLive<Differences>(url(path, { target, class: name, state, documents: 'false' }), EVERY_MS);
  const shown = list.data?.differences ?? [];
  const { selected, rows: chosen, select, clear } = useSelection(shown, keyOf);
  const chosenKeys = chosen.filter(isRepairable).map(keyOf);
  const repair = useRepair(stream, target, () => {
    list.reload();
    onAsked();
  });
  const isFiltered = name !== '' || state !== '';

  // Below a long list of streams nobody would see that something was opened.
  const panel = useRef<HTMLElement>(null);
  useEffect(() => {
    panel.current?.scrollIntoView({ block: 'nearest' });
  }, []);

  const repairChosen = () =>
    run(async () => {
      try {
        await repair.these(chosenKeys);
        clear();
      } catch (error) {
        toast({ tone: 'bad', title: 'Not all are to be repaired', body: (error as Error).message });
        list.reload();
      }
    });

  return (
    <section ref={panel} className="panel below" aria-labelledby="differences-heading">
      <div className="panel-head">
        <h2 id="differences-heading">What differs in {title}</h2>
        <a className="button quiet" href={formatRoute('validation')}>
          Close <span className="visually-hidden">the differences of {title}</span>
        </a>
      </div>
      <div className="toolbar" role="search" aria-label="Differences">
        <Choice label="Class" all="All classes" names={Object.keys(CLASSES)} value={name} onChange={(value) => onFilter({ class: value })} />
        <Choice label="State" all="All states" names={Object.keys(STATES)} value={state} onChange={(value) => onFilter({ state: value })} />
        {isFiltered && (
          <button type="button" className="button quiet" onClick={() => onFilter({ class: '', state: '' })}>
            Clear
          </button>
        )}
      </div>
      <div className="toolbar actions" role="group" aria-label="Actions">
        <span role="status" className="selected">
          {chosen.length > 0 ? `${count(chosen.length)} selected` : 'None selected'}
          {chosenKeys.length < chosen.length && `, ${count(chosenKeys.length)} to repair`}
        </span>
        <Action disabled={chosenKeys.length === 0 || isBusy} onClick={repairChosen}>
          Repair these
        </Action>
        <Action
          className="button push"
          disabled={!list.data || repairable(list.data.stream.classes) === 0}
          onClick={() => setAllAsked(true)}
        >
          Repair all…
        </Action>
      </div>
      <Loaded of={list} lines={8}>
        {({ stream: row, differences, is_sample }) => (
          <>
            <Notes row={row} />
            {differences.length > 0 ? (
              <Table
                caption={`Documents of ${title} that differ, the first found first`}
                columns={columns(differences, selected, select, setOpened)}
                rows={differences}
                id={keyOf}
              />
            ) : isFiltered ? (
              <Empty title="No difference matches" />
            ) : row.verdict === null ? (
              <Empty title="Nothing is known to differ yet">The stream is still to be compared.</Empty>
            ) : row.verdict === 'not compared' ? (
              <Empty title="The stream was not compared" />
            ) : (
              <Empty title="Nothing differs">The {placeAt(target)} had what the source had, when they were last compared.</Empty>
            )}
            {differences.length > 0 && (
              <div className="table-foot">
                <span role="status">{plural(differences.length, 'difference')} shown</span>
                {is_sample && <Badge tone="warn">There are more than are listed</Badge>}
              </div>
            )}
            {isAllAsked && (
              <RepairAll
                row={row}
                onConfirm={async () => {
                  await repair.all();
                  setAllAsked(false);
                }}
                onClose={() => setAllAsked(false)}
              />
            )}
          </>
        )}
      </Loaded>
      {opened && (
        <DifferenceDrawer
          stream={stream}
          target={target}
          // As it is now, unless it is not listed any more.
          difference={shown.find(({ key }) => key === opened.key) ?? opened}
          onRepair={() => repair.these([opened.key])}
          onClose={() => setOpened(null)}
        />
      )}
    </section>
  );
}

/** What the list does not say. */
function Notes({ row: { subscription, problem, classes } }: { row: Validation }) {
  const waiting = classes.find(({ class: name }) => name === 'waiting');
  return (
    <>
      {problem !== null && <p className="note">The round: {problem}</p>}
      {waiting && (
        <p className="note">
          {plural(waiting.count, 'change waits', 'changes wait')} for the {placeAt(subscription)}:{' '}
          <code className="wrap">{waiting.keys?.join(', ')}</code>
          {waiting.count > (waiting.keys?.length ?? 0) && ', …'}
        </p>
      )}
    </>
  );
}

interface ChoiceProps {
  label: string;
  all: string;
  names: string[];
  value: string;
  onChange: (value: string) => void;
}

function Choice({ label, all, names, value, onChange }: ChoiceProps) {
  return (
    <label className="field">
      <span>{label}</span>
      <select value={value} onChange={(event) => onChange(event.target.value)}>
        <option value="">{all}</option>
        {/* A link may name one that this page does not know. */}
        {[...new Set([...names, ...(value ? [value] : [])])].map((name) => (
          <option key={name} value={name}>
            {words(name)}
          </option>
        ))}
      </select>
    </label>
  );
}

function columns(
  shown: Difference[],
  selected: ReadonlySet<string>,
  select: (keys: string[], isSelected: boolean) => void,
  open: (difference: Difference) => void,
): Column<Difference>[] {
  return [
    {
      name: 'Select',
      isNameHidden: true,
      kind: 'check',
      header: (
        <SelectAll
          selected={selected.size}
          of={shown.length}
          onChange={(isSelected) => select(shown.map(keyOf), isSelected)}
        />
      ),
      cell: ({ key }) => (
        <input
          type="checkbox"
          aria-label={`Select ${key}`}
          checked={selected.has(key)}
          onChange={(event) => select([key], event.target.checked)}
        />
      ),
    },
    {
      name: 'Document',
      cell: (difference) => (
        <button type="button" className="link" onClick={() => open(difference)}>
          <code>{difference.key}</code>
        </button>
      ),
    },
    { name: 'Class', cell: ({ class: name }) => words(name) },
    { name: 'State', cell: (difference) => <Badge tone={toneOf(difference)}>{difference.state}</Badge> },
    { name: 'Found', cell: ({ found_at }) => <Time at={found_at} /> },
  ];
}
