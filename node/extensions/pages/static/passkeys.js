// Forms that a security key or passkey answers (WebAuthn): the node says what is to be signed, the browser asks the key,
// and the form carries the answer.
(() => {
  "use strict";

  const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (one) => one.charCodeAt(0));
  const text = (buffer) => btoa(Array.from(new Uint8Array(buffer), (one) => String.fromCharCode(one)).join(""))
    .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

  const NO_KEYS = "This browser has no security keys.";
  const hindrance = () => {
    if (!window.isSecureContext) return "Security keys need HTTPS, or http://localhost on the machine of the node.";
    if (/^[\d.]+$|^\[/.test(location.hostname)) return "Security keys are for a name: open this node by its name, not by its address.";
    return window.PublicKeyCredential ? "" : NO_KEYS;
  };

  const WORDS = {
    InvalidStateError: "This key is one of yours already.",
    NotAllowedError: "No key answered in time, or it was cancelled.",
    NotSupportedError: NO_KEYS,
    SecurityError: "The browser lets no security key be used at this address.",
  };

  const sentence = (words) => words[0].toUpperCase() + words.slice(1) + (/[.!?:]$/.test(words) ? "" : ".");

  const options = async (form) => {
    const answer = await fetch(form.dataset.options, {
      method: "POST", body: new URLSearchParams(new FormData(form)), headers: { Accept: "application/json" },
    });
    const asked = await answer.json();
    if (!answer.ok) throw new Error(sentence(asked.detail || `HTTP status ${answer.status}`));
    asked.challenge = bytes(asked.challenge);
    if (asked.user) asked.user.id = bytes(asked.user.id);
    for (const key of [...(asked.excludeCredentials || []), ...(asked.allowCredentials || [])]) key.id = bytes(key.id);
    return asked;
  };

  const answered = ({ id, rawId, type, response }) => {
    const said = { clientDataJSON: text(response.clientDataJSON) };
    for (const name of ["attestationObject", "authenticatorData", "signature"]) {
      if (response[name]) said[name] = text(response[name]);
    }
    return JSON.stringify({ id, rawId: text(rawId), type, response: said });
  };

  const ask = async (form) => {
    const publicKey = await options(form);
    const key = await (form.dataset.key === "create" ? navigator.credentials.create({ publicKey }) : navigator.credentials.get({ publicKey }));
    form.elements.answer.value = answered(key);
    form.querySelectorAll("[type=password]").forEach((one) => { one.disabled = true; }); // it was given with the first request
    form.submit();
  };

  for (const form of document.querySelectorAll("form[data-key]")) {
    const alert = form.querySelector("[role=alert]"), button = form.querySelector("button");
    const tell = (words) => { alert.textContent = words; alert.hidden = !words; };
    const words = hindrance();
    if (words) {
      tell(words);
      button.disabled = true;
      continue;
    }
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      tell("");
      button.disabled = true;
      ask(form).catch((error) => {
        tell(WORDS[error.name] || error.message);
        button.disabled = false;
      });
    });
  }
})();
