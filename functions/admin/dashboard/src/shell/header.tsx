import { useHealth, useLive } from '../api/live';
import type { LiveSync } from '../api/types';
import { count, plural } from '../format';
import { formatRoute, TABS, type Tab } from '../route';
import { useSession } from '../session';
import { useTheme } from '../theme';
import { Icon, Mark } from '../ui/icons';

export function Header({ tab }: { tab: Tab }) {
  const { role, actor, version, demo, signOut } = useSession();
  // Where nothing goes to clients, nobody asks about them.
  const goesToClients = (useLive<LiveSync>('/api/sync', 60_000).data?.streams.length ?? 0) > 0;
  const tabs = (Object.keys(TABS) as Tab[]).filter((name) => name !== 'clients' || goesToClients || tab === name);
  return (
    <header className="header">
      <a className="brand" href={formatRoute('overview')}>
        <Mark /> Sluice <span className="meta">{version}</span>
      </a>
      <nav aria-label="Main">
        {tabs.map((name) => (
          <a key={name} href={formatRoute(name)} aria-current={name === tab ? 'page' : undefined}>
            {TABS[name]}
            {name === 'dead-letters' && <DeadLetterCount />}
          </a>
        ))}
      </nav>
      <div className="header-end">
        {demo && <span className="chip demo">Demo</span>}
        <span className="chip" title={`Signed in as ${actor}`}>
          {role === 'operator' ? 'Operator' : 'Reader'}
        </span>
        <a className="button quiet" href="/docs">
          API
        </a>
        <ThemeToggle />
        <button type="button" className="button quiet" onClick={signOut}>
          Sign out
        </button>
      </div>
    </header>
  );
}

function DeadLetterCount() {
  const letters = useHealth().data?.pipeline?.dead_letters ?? 0;
  if (letters === 0) {
    return null;
  }
  return (
    <span className="tab-count">
      <span aria-hidden="true">{count(letters)}</span>
      <span className="visually-hidden">({plural(letters, 'letter')})</span>
    </span>
  );
}

function ThemeToggle() {
  const [theme, choose] = useTheme();
  const other = theme === 'dark' ? 'light' : 'dark';
  return (
    <button
      type="button"
      className="button quiet icon-only"
      aria-label={`Use the ${other} theme`}
      title={`Use the ${other} theme`}
      onClick={() => choose(other)}
    >
      <Icon name={theme === 'dark' ? 'sun' : 'moon'} />
    </button>
  );
}
