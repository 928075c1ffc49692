import { type ReactNode, useEffect, useRef } from 'react';
import { useLostSince } from '../api/connection';
import { RedriveStrip } from '../letters/redrive-strip';
import { TABS, type Tab } from '../route';
import { useSession } from '../session';
import { READER_NOTE } from '../ui/action';
import { Icon } from '../ui/icons';
import { Time } from '../ui/time';
import { DemoBar } from './demo-bar';
import { Header } from './header';

export function Shell({ tab, children }: { tab: Tab; children: ReactNode }) {
  const { role, demo } = useSession();
  const main = useRef<HTMLElement>(null);

  useEffect(() => {
    document.title = `${TABS[tab]} · Sluice`;
  }, [tab]);

  return (
    <>
      {/* A link to #main would be taken for a route. */}
      <button type="button" className="skip" onClick={() => main.current?.focus()}>
        Skip to the content
      </button>
      <Header tab={tab} />
      <LostBanner />
      <main ref={main} tabIndex={-1}>
        <h1 className="visually-hidden">{TABS[tab]}</h1>
        {role === 'reader' && (
          <p id={READER_NOTE} className="notice">
            You are signed in as a reader: you see everything, and what changes something is disabled. It needs the
            operator's token.
          </p>
        )}
        {demo && <DemoBar />}
        <RedriveStrip />
        {children}
      </main>
    </>
  );
}

function LostBanner() {
  const since = useLostSince();
  return (
    <div role="status">
      {since !== null && (
        <p className="banner">
          <Icon name="warning" />
          <span>
            <strong>Connection lost.</strong> What you see is from <Time at={new Date(since).toISOString()} />. It is
            tried again each few seconds.
          </span>
        </p>
      )}
    </div>
  );
}
