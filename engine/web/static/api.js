// The server's answers, and its refusals as sentences.

const TOKEN = "stemify-token";

export function storedToken() {
  try {
    return localStorage.getItem(TOKEN) ?? "";
  } catch {
    return ""; // storage may be forbidden
  }
}

export function storeToken(token) {
  try {
    if (token) localStorage.setItem(TOKEN, token);
    else localStorage.removeItem(TOKEN);
  } catch {
    // then it is asked for again
  }
}

export function authorization() {
  const token = storedToken();
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** An error with the server's own sentence. */
export class Refused extends Error {
  constructor(message, code, status) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

export function unreachable() {
  return new Refused("The server cannot be reached. Look at your connection and try again.", "unreachable", 0);
}

export function refusalOf(status, text) {
  try {
    const { code, message } = JSON.parse(text).error;
    if (code === "no_token") return new Refused(tokenWords(), code, status); // the server's own words are for programs
    return new Refused(String(message), String(code), status);
  } catch {
    return new Refused(
      `The server answered ${status}, and not in a way that this page understands.`,
      "unknown",
      status,
    );
  }
}

export function tokenWords() {
  return storedToken()
    ? "That access token is not right. Whoever runs this server has the right one."
    : "Enter the access token. Whoever runs this server has it.";
}

export async function refusal(response) {
  return refusalOf(response.status, await response.text().catch(() => ""));
}

/** Fetch JSON (null where there is nothing). Throws `Refused`. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...authorization(), ...options.headers } });
  } catch {
    throw unreachable();
  }
  if (!response.ok) throw await refusal(response);
  return response.status === 204 ? null : response.json();
}

/** An address of ours, as it is to be asked here: the page may have been opened under another name. */
export function here(url) {
  const parsed = new URL(url, location.href);
  return parsed.pathname + parsed.search;
}
