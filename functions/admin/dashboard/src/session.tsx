import { createContext, type ReactNode, useContext, useEffect, useMemo, useState } from 'react';
import { type Api, createApi } from './api/client';
import type { Session } from './api/types';
import { SignIn } from './shell/sign-in';
import { TOKEN_KEY } from './token';
import { Failure } from './ui/states';

const REFUSED = 'The token is no longer accepted. Sign in with the one that is valid now.';

interface SignedIn extends Session {
  api: Api;
  signOut: () => void;
}

type State =
  | { is: 'signed out'; notice?: string }
  | { is: 'checking'; token: string }
  | { is: 'unknown'; token: string; error: Error }
  | { is: 'signed in'; token: string; session: Session };

const Context = createContext<SignedIn | null>(null);

export function useSession(): SignedIn {
  const session = useContext(Context);
  if (!session) {
    throw new Error('There is no session: this component belongs inside a SessionProvider.');
  }
  return session;
}

export function useApi(): Api {
  return useSession().api;
}

/** Who is signed in. The token lives as long as the tab does, and no longer than it is accepted. */
export function SessionProvider({ children }: { children: ReactNode }) {
  const [state, setState] = useState<State>(() => {
    const token = sessionStorage.getItem(TOKEN_KEY);
    return token ? { is: 'checking', token } : { is: 'signed out' };
  });
  const token = state.is === 'signed in' ? state.token : null;
  const checked = state.is === 'checking' ? state.token : null;

  const end = (notice?: string) => {
    sessionStorage.removeItem(TOKEN_KEY);
    setState({ is: 'signed out', ...(notice && { notice }) });
  };
  const begin = (accepted: string, session: Session) => {
    sessionStorage.setItem(TOKEN_KEY, accepted);
    setState({ is: 'signed in', token: accepted, session });
  };
  const api = useMemo(() => createApi(token ?? '', () => end(REFUSED)), [token]);

  useEffect(() => {
    if (!checked) {
      return;
    }
    let isOurs = true;
    createApi(checked, () => isOurs && end(REFUSED))
      .get<Session>('/api/session')
      .then((session) => isOurs && begin(checked, session))
      .catch((error: Error) => {
        // A refusal has ended the session already; anything else says nothing about the token.
        if (isOurs && sessionStorage.getItem(TOKEN_KEY)) {
          setState({ is: 'unknown', token: checked, error });
        }
      });
    return () => {
      isOurs = false;
    };
  }, [checked]);

  switch (state.is) {
    case 'signed out':
      return <SignIn notice={state.notice} onSignedIn={begin} />;
    case 'checking':
      return <p className="splash">Signing in…</p>;
    case 'unknown':
      return (
        <main className="splash">
          <Failure error={state.error} onRetry={() => setState({ is: 'checking', token: state.token })} />
        </main>
      );
    case 'signed in':
      return <Context value={{ ...state.session, api, signOut: () => end() }}>{children}</Context>;
  }
}
