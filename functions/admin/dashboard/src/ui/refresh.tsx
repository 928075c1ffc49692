import { Icon } from './icons';

interface Props {
  isPaused: boolean;
  every: string;
  onToggle: () => void;
}

export function RefreshToggle({ isPaused, every, onToggle }: Props) {
  return (
    <div className="refresh">
      <span className={isPaused ? 'live is-paused' : 'live'}>{isPaused ? 'Paused' : `Live, each ${every}`}</span>
      <button type="button" className="button" onClick={onToggle}>
        <Icon name={isPaused ? 'play' : 'pause'} />
        {isPaused ? 'Resume refresh' : 'Pause refresh'}
      </button>
    </div>
  );
}
