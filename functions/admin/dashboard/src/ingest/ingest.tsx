import { Rejects } from './rejects';
import { Sources } from './sources';

export function Ingest() {
  return (
    <div className="stack">
      <Sources />
      <Rejects />
    </div>
  );
}
