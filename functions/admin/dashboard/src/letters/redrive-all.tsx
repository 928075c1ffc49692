import useSWR from 'swr';
import type { RedriveFilter, RedriveMatch } from '../api/types';
import { plural } from '../format';
import { useApi } from '../session';
import { TARGETS } from '../targets';
import { Confirm } from '../ui/confirm';
import { Failure, Skeleton } from '../ui/states';
import { useRedrive } from './redrive-provider';

interface Props {
  filter: RedriveFilter;
  isSearched: boolean;
  onClose: () => void;
}

export function RedriveAll({ filter, isSearched, onClose }: Props) {
  const api = useApi();
  const { start } = useRedrive();
  const match = useSWR<RedriveMatch, Error>(
    { dryRun: filter },
    () => api.send('POST', '/api/dlq/redrive', { ...filter, dry_run: true }),
    { revalidateOnFocus: false, keepPreviousData: false },
  );

  return (
    <Confirm
      title="Redrive all dead letters?"
      action="Redrive all"
      isDisabled={!match.data || (match.data.matched === 0 && !match.data.is_sample)}
      onConfirm={async () => {
        start(filter);
        onClose();
      }}
      onClose={onClose}
    >
      <p>
        All dead letters
        {filter.target && <strong> of {TARGETS[filter.target]}</strong>}
        {filter.stream && <strong> of stream {filter.stream}</strong>}
        {filter.error_type && <strong> with error type {filter.error_type}</strong>}: the key of each is read anew for
        its target, and the letter goes. It comes back if its cause is not mended before.
      </p>
      {isSearched && <p>The text search does not count here: to redrive what it found, select the rows.</p>}
      {match.error && <Failure error={match.error} onRetry={() => void match.mutate()} />}
      {match.data ? <Matched match={match.data} /> : !match.error && <Skeleton lines={1} />}
    </Confirm>
  );
}

function Matched({ match: { matched, is_sample } }: { match: RedriveMatch }) {
  return (
    <p role="status">
      <strong>{plural(matched, 'letter matches', 'letters match')}</strong>
      {is_sample && ' among those that were looked at; there are more'}.
    </p>
  );
}
