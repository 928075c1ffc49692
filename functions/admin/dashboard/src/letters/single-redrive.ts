import type { Letter, Redriven } from '../api/types';
import { absolute } from '../format';
import { useApi } from '../session';
import { type Toast, useToast } from '../shell/toasts';
import { nameOf } from './letters';

export function useSingleRedrive(onRedriven: (ids: string[]) => void) {
  const api = useApi();
  const toast = useToast();

  async function redriveOne(letter: Letter) {
    const answer = await api.send<Redriven>('POST', `/api/dlq/${encodeURIComponent(letter.message_id)}/redrive`);
    onRedriven([letter.message_id]);
    toast(toastOf(letter, answer));
  }

  return redriveOne;
}

function toastOf(letter: Letter, { result, change_id, redriven_at, by }: Redriven): Toast {
  const name = nameOf(letter);
  switch (result) {
    case 'redriven':
      return { tone: 'good', title: `${name} is redriven`, body: `It is in the log again, as change ${change_id}.` };
    case 'returned':
      return { tone: 'good', title: `${name} went back to the queue`, body: 'The message is tried again as it came.' };
    case 'already_redriven':
      return { tone: 'good', title: `${name} was redriven before`, body: `By ${by}, ${absolute(redriven_at)}.` };
  }
}
