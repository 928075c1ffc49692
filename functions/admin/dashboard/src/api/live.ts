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

/** A page of a list, and where it goes on; null where it does not. */
type Page = { next_before: number | null } | { next_after: string | null };

export interface Rows<Row> {
  rows: Row[];
  /** Where it goes on; null when there are no more. */
  next: number | string | null;
  /** How many were asked for; there may have been fewer. */
  pages: number;
}

export interface Pages<Row> extends Live<Rows<Row>> {
  loadMore: () => void;
  isLoadingMore: boolean;
}

/** The first rows of a list, and as many pages behind them as were asked for. All of them are read anew each time, so that
 *  no row shows a state that it had, and less often the more they are. */
export function usePages<P extends Page, Row>(
  path: string,
  rowsOf: (page: P) => Row[],
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
    loadMore: () => setAsked({ path, pages: pages + 1 }),
    isLoadingMore: swr.isLoading && pages > 1,
  };
}

export async function readPages<P extends Page, Row>(
  api: Api,
  path: string,
  rowsOf: (page: P) => Row[],
  pages: number,
): Promise<Rows<Row>> {
  const rows: Row[] = [];
  let next: Rows<Row>['next'] = null;
  let where = {};
  for (let read = 0; read < pages; read++) {
    const [base = path, query] = path.split('?');
    const page: P = await api.get(url(base, { ...Object.fromEntries(new URLSearchParams(query)), ...where }));
    rows.push(...rowsOf(page));
    next = 'next_after' in page ? page.next_after : page.next_before;
    if (next === null) {
      break;
    }
    where = 'next_after' in page ? { after: next } : { before: next };
  }
  return { rows, next, pages };
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
