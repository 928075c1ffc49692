import type { IngestStatus, Position, Round } from '../api/types';
import { plural } from '../format';

/** What matters most about a source now. */
export function stateOf(position: Position, now: number): { tone: 'good' | 'bad' | 'warn' | 'wait'; words: string } {
  const { failures, requested_at, not_before, chain_pages, ends_by } = position;
  if (requested_at !== null) {
    return { tone: 'wait', words: 'A round is asked for' };
  }
  if (failures > 0) {
    return { tone: 'bad', words: failures === 1 ? 'The last round failed' : `The last ${plural(failures, 'round')} failed` };
  }
  if (ends_by !== null && Date.parse(ends_by) < now) {
    return { tone: 'bad', words: 'The last round was killed' };
  }
  if (not_before !== null && Date.parse(not_before) > now) {
    return { tone: 'warn', words: 'The source asked to be left alone' };
  }
  if (chain_pages > 0) {
    return { tone: 'wait', words: `${plural(chain_pages, 'page')} read, more to come` };
  }
  return { tone: 'good', words: 'Read to the end' };
}

/** All rounds, as one. */
export function ever({ totals }: IngestStatus): Round {
  return {
    fetched: totals.fetched,
    synced: totals.synced,
    outdated: totals.skipped_outdated,
    duplicate: totals.skipped_duplicate,
    rejected: totals.rejected_invalid + totals.rejected_conflict,
  };
}
