import { type FormEvent, useState } from 'react';
import { createApi, Problem } from '../api/client';
import type { Session } from '../api/types';
import { Mark } from '../ui/icons';

const ID = 'sign-in-error';

interface Props {
  notice: string | undefined;
  onSignedIn: (token: string, session: Session) => void;
}

export function SignIn({ notice, onSignedIn }: Props) {
  const [token, setToken] = useState('');
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState(notice);

  async function signIn(event: FormEvent) {
    event.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      onSignedIn(token.trim(), await ask(token.trim()));
    } catch (refusal) {
      setError((refusal as Error).message);
      setBusy(false);
    }
  }

  return (
    <main className="sign-in">
      <form className="panel" onSubmit={signIn}>
        <h1 className="brand">
          <Mark /> Sluice
        </h1>
        <p>The operator's token may do everything, the reader's may look at everything but the contents of documents.</p>
        <label className="field">
          <span>Token</span>
          <input
            type="password"
            autoComplete="off"
            spellCheck={false}
            autoFocus
            required
            value={token}
            aria-invalid={error !== undefined}
            aria-describedby={ID}
            onChange={(event) => setToken(event.target.value)}
          />
        </label>
        <p id={ID} role="alert" className="field-error">
          {error}
        </p>
        <button type="submit" className="button primary" disabled={isBusy}>
          {isBusy ? 'Signing in…' : 'Sign in'}
        </button>
        <p className="hint">It is kept in this tab only, until you sign out or close it.</p>
      </form>
    </main>
  );
}

async function ask(token: string): Promise<Session> {
  // What cannot be in a header would never be sent, and look like a lost connection.
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new Error('This is no token: it has spaces or letters that no token has. Paste it again.');
  }
  try {
    return await createApi(token).get<Session>('/api/session');
  } catch (error) {
    if (error instanceof Problem && error.status === 401) {
      throw new Error('This token is not accepted. Paste it again, or ask for the one that is valid now.');
    }
    throw error;
  }
}
