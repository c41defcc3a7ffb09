// The server's answers, and its refusals as sentences.

import { isRedirected, proxySentence } from "./proxy.js";

const TOKEN = "stemify-token";
const PROXY = "proxy"; // the code of an answer that is not Stemify's own

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

export function unreachable(message = "The server cannot be reached. Check your connection and try again.") {
  return new Refused(message, "unreachable", 0);
}

/** Why a request got no answer: no connection, or a redirect to a login page that the browser did not follow. */
export async function failure(message) {
  if (await isRedirected()) return new Refused(proxySentence(302), PROXY, 302);
  return unreachable(message);
}

export function refusalOf(status, text, maxBytes) {
  try {
    const { code, message } = JSON.parse(text).error;
    if (code === "no_token") return new Refused(tokenWords(), code, status); // the server's own words are for programs
    if (typeof code === "string" && typeof message === "string") return new Refused(message, code, status);
  } catch {
    // not JSON, or other JSON than ours
  }
  return new Refused(proxySentence(status, maxBytes), PROXY, status);
}

/** Whether Stemify itself answered that there is no such job. */
export function isGone(error) {
  return error.status === 404 && error.code !== PROXY;
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
    throw await failure();
  }
  if (!response.ok) throw await refusal(response);
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch (error) {
    throw error instanceof SyntaxError ? new Refused(proxySentence(response.status), PROXY, response.status) : unreachable();
  }
}

/** An address of ours, as it is to be asked here: the page may have been opened under another name. */
export function here(url) {
  const parsed = new URL(url, location.href);
  return parsed.pathname + parsed.search;
}
