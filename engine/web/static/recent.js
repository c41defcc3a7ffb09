// The list of recent jobs on the start page, stored in this browser only.

const KEY = "stemify-songs";
const MOST = 12;

export function recent() {
  try {
    const songs = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return songs.filter(({ href, title }) => typeof title === "string" && /^\/jobs\/[0-9a-f-]+\?/.test(href));
  } catch {
    return [];
  }
}

function store(songs) {
  try {
    localStorage.setItem(KEY, JSON.stringify(songs.slice(0, MOST)));
  } catch {
    // the list is optional
  }
}

export function remember(song) {
  store([{ ...song, at: Date.now() }, ...recent().filter(({ id }) => id !== song.id)]);
}

export function forget(id) {
  store(recent().filter((song) => song.id !== id));
}
