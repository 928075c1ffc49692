import { Rejects } from './rejects';
import { Origin } from './origin';

export function Ingest() {
  return (
    <div className="stack">
      <Origin />
      <Rejects />
    </div>
  );
}
