import { useSyncExternalStore } from 'react';

export const TABS = {
  overview: 'Overview',
  outbox: 'Outbox',
  'dead-letters': 'Dead letters',
  validation: 'Validation',
  clients: 'Clients',
  ingest: 'Ingest',
  audit: 'Audit',
} as const;

export type Tab = keyof typeof TABS;

export interface Route {
  tab: Tab;
  filters: Record<string, string>;
}

/** A page and its filters, as `#/outbox?stream=users`: they can be linked to, and survive a reload. */
export function parseRoute(hash: string): Route {
  const [name = '', query = ''] = hash.replace(/^#\/?/, '').split('?');
  return {
    tab: Object.hasOwn(TABS, name) ? (name as Tab) : 'overview',
    filters: Object.fromEntries([...new URLSearchParams(query)].filter(([, value]) => value !== '')),
  };
}

export function formatRoute(tab: Tab, filters: Record<string, string | undefined> = {}): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(filters)) {
    if (value) {
      query.set(name, value);
    }
  }
  return query.size > 0 ? `#/${tab}?${query}` : `#/${tab}`;
}

/** No new entry in the history: going back leaves the page, and not the last letter that was typed. */
export function replaceRoute(route: string): void {
  window.location.replace(route);
}

export function useRoute(): Route {
  return parseRoute(useSyncExternalStore(subscribe, () => window.location.hash));
}

function subscribe(listener: () => void): () => void {
  window.addEventListener('hashchange', listener);
  return () => window.removeEventListener('hashchange', listener);
}
