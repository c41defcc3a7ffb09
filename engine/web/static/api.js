// Requests to the server, and its errors as messages for the user.

import { isRedirected, proxySentence } from "./proxy.js";

const TOKEN = "stemify-token";
const PROXY = "proxy"; // the code of a response that does not come from Stemify
const WITHOUT_SERVER = [502, 503, 504]; // the statuses of a proxy that cannot reach the server

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
    // the user is asked again
  }
}

export function authorization() {
  const token = storedToken();
  return token ? { Authorization: `Bearer ${token}` } : {};
}

/** An error with a message for the user. */
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

/** Why a request got no response: no connection, or a redirect to a login page that the browser did not follow. */
export async function failure(message) {
  if (await isRedirected()) return new Refused(proxySentence(302), PROXY, 302);
  return unreachable(message);
}

export function refusalOf(status, text, maxBytes) {
  try {
    const { code, message } = JSON.parse(text).error;
    if (code === "no_token") return new Refused(tokenWords(), code, status); // the server's message is for programs
    if (typeof code === "string" && typeof message === "string") return new Refused(localTimes(message), code, status);
  } catch {
    // not an error of Stemify
  }
  return new Refused(proxySentence(status, maxBytes), PROXY, status);
}

/** The text with "15:07 UTC" in local time. */
function localTimes(text) {
  return text.replace(/\b(\d\d):(\d\d) UTC\b/g, (_, hours, minutes) => {
    const time = new Date();
    time.setUTCHours(hours, minutes);
    return time.toLocaleTimeString("en", { hour: "numeric", minute: "2-digit" });
  });
}

/** Whether Stemify itself answered that the job does not exist. */
export function isGone(error) {
  return error.status === 404 && error.code !== PROXY;
}

/** Whether the server cannot be reached for now. */
export function isAway({ status, code }) {
  return status === 0 || (code === PROXY && WITHOUT_SERVER.includes(status));
}

export function tokenWords() {
  return storedToken()
    ? "This access token is wrong. Ask the server's operator for the right one."
    : "Enter the access token. Ask the server's operator for it.";
}

export async function refusal(response) {
  return refusalOf(response.status, await response.text().catch(() => ""));
}

/** Fetch a response. Throws `Refused`. */
export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...authorization(), ...options.headers } });
  } catch {
    throw await failure();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** Fetch JSON; null if the response is empty. Throws `Refused`. */
export async function ask(path, options = {}) {
  const response = await request(path, options);
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch (error) {
    throw error instanceof SyntaxError ? new Refused(proxySentence(response.status), PROXY, response.status) : unreachable();
  }
}

/** Have a job created; resolves to its page. Throws `Refused`. */
export async function createJob(address, values) {
  const headers = { "Content-Type": "application/json" };
  const response = await request(address, { method: "POST", headers, body: JSON.stringify(values) });
  return pageOf(response.headers.get("Link"), (await response.json()).jobId);
}

/** The page of a new job. `link`: the header of the response that accepted it. */
export function pageOf(link, jobId) {
  const page = /<([^>]+)>;\s*rel="alternate"/.exec(link ?? "")?.[1];
  return page ? here(page) : `/jobs/${encodeURIComponent(jobId)}`;
}

/** A URL of this server as a path: the page may have been opened at another host name. */
export function here(url) {
  const parsed = new URL(url, location.href);
  return parsed.pathname + parsed.search;
}
