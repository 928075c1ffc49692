import type { Letter } from '../api/types';
import { titleOf } from '../targets';
import { Action, useRequest } from '../ui/action';
import { SelectAll } from '../ui/select-all';
import { type Column, Table } from '../ui/table';
import { Time, Unknown } from '../ui/time';
import { nameOf } from './letters';

interface Props {
  letters: Letter[];
  selected: ReadonlySet<string>;
  onSelect: (ids: string[], isSelected: boolean) => void;
  onOpen: (letter: Letter) => void;
  onRedrive: (letter: Letter) => Promise<void>;
}

export function LettersTable({ letters, selected, onSelect, onOpen, onRedrive }: Props) {
  const columns: Column<Letter>[] = [
    {
      name: 'Select',
      isNameHidden: true,
      kind: 'check',
      header: (
        <SelectAll
          selected={letters.filter(({ message_id }) => selected.has(message_id)).length}
          of={letters.length}
          onChange={(isSelected) =>
            onSelect(
              letters.map(({ message_id }) => message_id),
              isSelected,
            )
          }
        />
      ),
      cell: (letter) => (
        <input
          type="checkbox"
          aria-label={`Select ${nameOf(letter)}`}
          checked={selected.has(letter.message_id)}
          onChange={(event) => onSelect([letter.message_id], event.target.checked)}
        />
      ),
    },
    {
      name: 'Document',
      cell: (letter) => (
        <button type="button" className="link" onClick={() => onOpen(letter)}>
          {letter.stream === null ? 'cannot be read' : letter.stream}{' '}
          <code>{letter.key ?? letter.message_id.slice(0, 8)}</code>
        </button>
      ),
    },
    { name: 'Target', cell: ({ target }) => titleOf(target) },
    { name: 'Error', cell: ({ error_type }) => <code>{error_type}</code> },
    { name: 'Reason', cell: ({ reason }) => <span className="clamp">{reason}</span> },
    { name: 'Failed', cell: ({ failed_at }) => <Time at={failed_at} /> },
    { name: 'Attempts', kind: 'number', cell: ({ attempts }) => attempts ?? <Unknown /> },
    {
      name: 'Redrive',
      isNameHidden: true,
      kind: 'actions',
      cell: (letter) => <RedriveButton letter={letter} onRedrive={onRedrive} />,
    },
  ];
  return (
    <Table
      caption="Dead letters, the newest first"
      columns={columns}
      rows={letters}
      id={({ message_id }) => message_id}
    />
  );
}

// The letter is searched for in the queue, which takes a while when that is long.
function RedriveButton({ letter, onRedrive }: { letter: Letter; onRedrive: (letter: Letter) => Promise<void> }) {
  const { isBusy, run } = useRequest();
  return (
    <Action
      className="button small"
      aria-label={`Redrive ${nameOf(letter)}`}
      disabled={isBusy}
      onClick={() => run(() => onRedrive(letter))}
    >
      {isBusy ? 'Redriving…' : 'Redrive'}
    </Action>
  );
}
