import { Badge } from '../ui/badge';

export function Result({ applied }: { applied: boolean }) {
  return <Badge tone={applied ? 'good' : 'warn'}>{applied ? 'Written' : 'Not written'}</Badge>;
}
