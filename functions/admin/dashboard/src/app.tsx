import { SWRConfig, type SWRConfiguration } from 'swr';
import { RETRY_MS } from './api/live';
import { Audit } from './audit/audit';
import { Clients } from './clients/clients';
import { Ingest } from './ingest/ingest';
import { DeadLetters } from './letters/dead-letters';
import { RedriveProvider } from './letters/redrive-provider';
import { Outbox } from './outbox/outbox';
import { Overview } from './overview/overview';
import { type Tab, useRoute } from './route';
import { SessionProvider } from './session';
import { Shell } from './shell/shell';
import { ToastProvider } from './shell/toasts';
import { Validation } from './validation/validation';

const PAGES: Record<Tab, () => React.ReactNode> = {
  overview: Overview,
  outbox: Outbox,
  'dead-letters': DeadLetters,
  validation: Validation,
  clients: Clients,
  ingest: Ingest,
  audit: Audit,
};

const CONFIG: SWRConfiguration = {
  // A cache for each session: nobody sees what was loaded with another's token.
  provider: () => new Map(),
  keepPreviousData: true,
  dedupingInterval: 1_000,
  // At a steady pace, so that the page is back soon after the server is.
  onErrorRetry: (_error, _key, _config, revalidate, options) => {
    setTimeout(() => void revalidate(options), RETRY_MS);
  },
};

export function App() {
  return (
    <SessionProvider>
      <SWRConfig value={CONFIG}>
        <ToastProvider>
          <RedriveProvider>
            <Console />
          </RedriveProvider>
        </ToastProvider>
      </SWRConfig>
    </SessionProvider>
  );
}

function Console() {
  const { tab } = useRoute();
  const Page = PAGES[tab];
  return (
    <Shell tab={tab}>
      <Page />
    </Shell>
  );
}
