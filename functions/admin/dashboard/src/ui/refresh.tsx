import { useLostSince } from '../api/connection';
import { Icon } from './icons';

interface Props {
  isPaused: boolean;
  every: string;
  onToggle: () => void;
}

export function RefreshToggle({ isPaused, every, onToggle }: Props) {
  const isLost = useLostSince() !== null;
  return (
    <div className="refresh">
      <span className={isPaused || isLost ? 'live is-paused' : 'live'}>
        {isPaused ? 'Paused' : isLost ? 'Not connected' : `Live, each ${every}`}
      </span>
      <button type="button" className="button" onClick={onToggle}>
        <Icon name={isPaused ? 'play' : 'pause'} />
        <span>
          {isPaused ? 'Resume' : 'Pause'} <span className="visually-hidden">the refresh</span>
        </span>
      </button>
    </div>
  );
}
