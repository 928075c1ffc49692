import type { Pages } from '../api/live';
import { plural as counted } from '../format';

interface Props<Row> {
  count: number;
  noun: string;
  plural?: string;
  pages: Pages<Row>;
}

export function Older<Row>({ count, noun, plural, pages: { data, loadOlder, isLoadingOlder } }: Props<Row>) {
  const isEnd = data?.before === null;
  return (
    <div className="table-foot">
      <span role="status">
        {isEnd && count > 0 ? `All ${counted(count, noun, plural)}` : counted(count, noun, plural)}
      </span>
      {!isEnd && (
        <button type="button" className="button" disabled={isLoadingOlder} onClick={loadOlder}>
          {isLoadingOlder ? 'Loading…' : 'Load older'}
        </button>
      )}
    </div>
  );
}
