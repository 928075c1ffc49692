import { useState } from 'react';
import useSWR, { type SWRConfiguration, type SWRResponse } from 'swr';
import { useApi } from '../session';
import { type Api, Problem, url } from './client';
import type { Health } from './types';

export const RETRY_MS = 5_000;

/** What a table or a chart needs to know of a request, whatever it asks for. */
export interface Live<T> extends Pick<SWRResponse<T, Error>, 'data' | 'error' | 'isLoading'> {
  reload: () => void;
  /** Shows at once what a change has made of the data, and reads them anew. */
  update: (change: (data: T) => T) => void;
}

/** Asks again each `every` ms; not in a hidden tab, and not while it is 0. */
export function useLive<T>(path: string, every: number): Live<T> {
  const { get } = useApi();
  return live(useSWR<T, Error>(path, get, refresh(every)));
}

/** A degraded service answers 503 with the same body: that is what was asked for. */
export function useHealth(): Live<Health> {
  const api = useApi();
  return live(useSWR<Health, Error>('/health', (path: string) => readHealth(api, path), refresh(5_000)));
}

export async function readHealth(api: Api, path: string): Promise<Health> {
  try {
    return await api.get<Health>(path);
  } catch (error) {
    if (error instanceof Problem && isHealth(error.body)) {
      return error.body;
    }
    throw error;
  }
}

function isHealth(body: unknown): body is Health {
  return typeof body === 'object' && body !== null && 'parts' in body && Array.isArray(body.parts);
}

export interface Rows<Row> {
  rows: Row[];
  /** Where older rows go on; null when there are none. */
  before: number | null;
  /** How many were asked for; there may have been fewer. */
  pages: number;
}

export interface Pages<Row> extends Live<Rows<Row>> {
  loadOlder: () => void;
  isLoadingOlder: boolean;
}

/** The newest rows of a list, and as many older pages as were asked for. All of them are read anew each time, so that
 *  no row shows a state that it had, and less often the more they are. */
export function usePages<Page extends { next_before: number | null }, Row>(
  path: string,
  rowsOf: (page: Page) => Row[],
  every: number,
): Pages<Row> {
  const api = useApi();
  const [asked, setAsked] = useState({ path, pages: 1 });
  const pages = asked.path === path ? asked.pages : 1;
  const swr = useSWR<Rows<Row>, Error>(
    [path, pages],
    () => readPages(api, path, rowsOf, pages),
    refresh(every * pages),
  );
  return {
    ...live(swr),
    loadOlder: () => setAsked({ path, pages: pages + 1 }),
    isLoadingOlder: swr.isLoading && pages > 1,
  };
}

export async function readPages<Page extends { next_before: number | null }, Row>(
  api: Api,
  path: string,
  rowsOf: (page: Page) => Row[],
  pages: number,
): Promise<Rows<Row>> {
  const rows: Row[] = [];
  let before: number | null = null;
  for (let read = 0; read < pages; read++) {
    const [base = path, query] = path.split('?');
    const page: Page = await api.get(url(base, { ...Object.fromEntries(new URLSearchParams(query)), before }));
    rows.push(...rowsOf(page));
    before = page.next_before;
    if (before === null) {
      break;
    }
  }
  return { rows, before, pages };
}

function refresh(every: number): SWRConfiguration {
  return { refreshInterval: every, revalidateOnFocus: every > 0 };
}

function live<T>({ data, error, isLoading, mutate }: SWRResponse<T, Error>): Live<T> {
  return {
    data,
    error,
    isLoading,
    reload: () => void mutate(),
    update: (change) => void mutate((before) => before && change(before)),
  };
}
