import { Rejects } from './rejects';
import { Source } from './source';

export function Ingest() {
  return (
    <div className="stack">
      <Source />
      <Rejects />
    </div>
  );
}
