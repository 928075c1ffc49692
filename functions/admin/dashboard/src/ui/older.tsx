import type { Pages } from '../api/live';
import { plural as counted } from '../format';

interface Props<Row> {
  count: number;
  noun: string;
  plural?: string;
  /** What the button says. */
  more?: string;
  pages: Pages<Row>;
}

export function Older<Row>({ count, noun, plural, more = 'Load older', pages: { data, loadMore, isLoadingMore } }: Props<Row>) {
  const isEnd = data?.next === null;
  return (
    <div className="table-foot">
      <span role="status">
        {isEnd && count > 0 ? `All ${counted(count, noun, plural)}` : counted(count, noun, plural)}
      </span>
      {!isEnd && (
        <button type="button" className="button" disabled={isLoadingMore} onClick={loadMore}>
          {isLoadingMore ? 'Loading…' : more}
        </button>
      )}
    </div>
  );
}
