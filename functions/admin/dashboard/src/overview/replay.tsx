import { useState } from 'react';
import useSWR from 'swr';
import { useLive } from '../api/live';
import type { Checkpoint, Checkpoints, Replay, ReplayRequest, Streams } from '../api/types';
import { absolute, plural } from '../format';
import { useApi } from '../session';
import { useToast } from '../shell/toasts';
import { Confirm } from '../ui/confirm';
import { Failure, Loaded } from '../ui/states';
import { offered } from './checkpoints';

interface Props {
  subscription: string;
  onClose: () => void;
}

/** Asks from which checkpoint on, and says what that would be before it is confirmed. */
export function ReplayDialog({ subscription, onClose }: Props) {
  const api = useApi();
  const toast = useToast();
  const checkpoints = useLive<Checkpoints>('/api/checkpoints', 0);
  const streams = useLive<Streams>('/api/streams', 0);
  const [from, setFrom] = useState('');
  const [stream, setStream] = useState('');
  const path = `/api/subscriptions/${encodeURIComponent(subscription)}/replay`;
  const request: ReplayRequest = { from, ...(stream && { stream }) };
  const trial = useSWR<Replay, Error>(from ? [path, from, stream] : null, () =>
    api.send<Replay>('POST', path, { ...request, dry_run: true }),
  );

  async function replay() {
    const { log_rows } = await api.send<Replay>('POST', path, request);
    onClose();
    toast({ tone: 'good', title: `${stream || subscription} is replayed`, body: `${plural(log_rows, 'row')} of the log` });
  }

  return (
    <Confirm title={`Replay to ${subscription}?`} action="Replay" isDisabled={!trial.data} onConfirm={replay} onClose={onClose}>
      <p>Whatever changed since a checkpoint is delivered again, as it is now. Nothing newer is overwritten.</p>
      <Loaded of={checkpoints} lines={2}>
        {({ checkpoints: all }) => (
          <div className="stack">
            <label className="field">
              <span>Since</span>
              <select value={from} onChange={(event) => setFrom(event.target.value)}>
                <option value="">Choose a checkpoint</option>
                {offered(all, subscription).map((one) => (
                  <option key={key(one)} value={key(one)}>
                    {one.name ? `${one.name}, ` : ''}
                    {absolute(one.at)}
                  </option>
                ))}
              </select>
            </label>
            <label className="field">
              <span>Stream</span>
              <select value={stream} onChange={(event) => setStream(event.target.value)}>
                <option value="">All</option>
                {streams.data?.streams
                  .filter((one) => one.subscription === subscription)
                  .map(({ name }) => <option key={name}>{name}</option>)}
              </select>
            </label>
          </div>
        )}
      </Loaded>
      {trial.data && (
        <p role="status">
          {plural(trial.data.log_rows, 'row')} of the log {trial.data.log_rows === 1 ? 'is' : 'are'} looked at.
          {trial.data.read_anew.length > 0 &&
            ` The checkpoint leaves out what rested then, so all of it is read anew: ${trial.data.read_anew.join(', ')}.`}
        </p>
      )}
      {trial.error && <Failure error={trial.error} />}
    </Confirm>
  );
}

/** By which the API finds it. */
function key({ name, at }: Pick<Checkpoint, 'name'> & { at: string }): string {
  return name ?? at;
}
