import { useSyncExternalStore } from 'react';

/** Whether the last request got an answer, whatever it said; and if not, since when none has. */
export const connection = createConnection();

export function useLostSince(): number | null {
  return useSyncExternalStore(connection.subscribe, connection.lostSince);
}

function createConnection() {
  let lostSince: number | null = null;
  const listeners = new Set<() => void>();

  function set(value: number | null) {
    if (value !== lostSince) {
      lostSince = value;
      listeners.forEach((listener) => listener());
    }
  }

  return {
    lost: () => set(lostSince ?? Date.now()),
    restored: () => set(null),
    lostSince: () => lostSince,
    subscribe(listener: () => void) {
      listeners.add(listener);
      return () => {
        listeners.delete(listener);
      };
    },
  };
}
