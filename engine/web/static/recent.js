// The songs that this browser has seen, for its own list on the first page. They stay in the browser.

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
    // then there is no list
  }
}

export function remember(song) {
  store([{ ...song, at: Date.now() }, ...recent().filter(({ id }) => id !== song.id)]);
}

export function forget(id) {
  store(recent().filter((song) => song.id !== id));
}
