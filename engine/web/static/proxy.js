// Messages for responses of a proxy, a firewall or a CDN in front of Stemify.

const SENTENCES = {
  400: unreadable,
  401: "A proxy in front of Stemify asks for a login. Reload this page and log in.",
  403: "A proxy or firewall in front of Stemify blocked this. Reload this page; if it is blocked again, ask the operator.",
  404: notForwarded,
  405: notForwarded,
  408: "A proxy in front of Stemify stopped waiting for the upload. Try again; "
    + "its operator can raise the timeout (nginx: client_body_timeout).",
  413: tooLarge,
  429: "A proxy in front of Stemify received too many requests. Wait a minute and try again.",
  431: unreadable,
  502: "A proxy in front of Stemify cannot reach it. Stemify may be restarting: try again in a minute.",
  503: "A proxy in front of Stemify is overloaded, or Stemify is down for maintenance. Try again in a minute.",
  504: "A proxy in front of Stemify stopped waiting for its answer. Try again in a minute; "
    + "its operator can raise the timeout (nginx: proxy_read_timeout).",
};

/** The message for a status whose body does not come from Stemify. `maxBytes`: the largest file that Stemify accepts. */
export function proxySentence(status, maxBytes) {
  if (status < 400) return "Another page was returned instead of Stemify's, perhaps a login page. Reload this page and log in.";
  if (status >= 520) return `The CDN in front of Stemify cannot reach it (status ${status}). Try again in a minute.`;
  const sentence = SENTENCES[status];
  if (typeof sentence === "function") return sentence(maxBytes);
  return sentence ?? `A proxy in front of Stemify answered with status ${status}. Try again; its log has the reason.`;
}

function tooLarge(maxBytes) {
  if (!maxBytes) return "A proxy in front of Stemify refused this as too large. Its operator can raise the limit.";
  const megabytes = Math.round(maxBytes / 2 ** 20);
  return `This file is larger than a proxy in front of Stemify accepts. Stemify itself accepts ${megabytes} MB: `
    + `ask the operator to raise the proxy's limit (nginx: client_max_body_size ${megabytes + 1}m), or send a smaller file.`;
}

function unreadable() {
  return "The request was damaged on its way to Stemify. Reload this page; if that does not help, delete this site's cookies.";
}

function notForwarded() {
  return "A proxy in front of Stemify does not forward this address. Its operator must forward all paths and methods.";
}

/** Whether a proxy redirects requests, as login pages do; the page may not follow to another site. */
export async function isRedirected() {
  try {
    const response = await fetch("/choices.json", { redirect: "manual", cache: "no-store" });
    return response.type === "opaqueredirect";
  } catch {
    return false;
  }
}
