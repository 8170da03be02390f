// The form for a token, which becomes a cookie that no script can read.

import { signIn } from '../api.js';
import { html, useRef, useState } from '../vendor.js';
import { Page, Trouble } from '../widgets.js';

export function SignIn() {
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  const [state, setState] = useState(/** @type {any} */ ({ busy: false, error: null }));
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    setState({ busy: true, error: null });
    try {
      await signIn(field.current?.value.trim() ?? '');
    } catch (error) {
      setState({ busy: false, error });
      field.current?.select();
      field.current?.focus();
    }
  };
  return html`<main class="alone">
    <${Page} title="scoreline" window="Sign in">
      <form class="panel" onSubmit=${submit}>
        <label for="token">Token</label>
        <input id="token" ref=${field} type="password" autocomplete="current-password" required autofocus aria-describedby="token-help" />
        <p id="token-help" class="quiet">One of <code>http.tokens</code> in the daemon’s config. It is exchanged for a cookie, and not kept by this page.</p>
        <${Trouble} error=${state.error} />
        <button class="primary" aria-busy=${state.busy}>Sign in</button>
      </form>
    <//>
  </main>`;
}
