// Play, pause and seek from the lock screen, a headset or media keys.

const JUMP_S = 10;
const SILENCE_S = 10; // Chromium shows no controls for less than 5 s
const RATE = 8000;

export function connectMediaSession(player, { title, artist }) {
  const { mediaSession } = navigator;
  if (!mediaSession) return;
  const artwork = [{ src: "/static/icon-512.png", sizes: "512x512", type: "image/png" }];
  mediaSession.metadata = new MediaMetadata({ title, artist: artist ?? "Stemify", artwork });
  const jump = (seconds) => player.seek(player.position + seconds);
  const silence = silentAudio();
  const actions = {
    play: () => player.play().catch(() => {}), // reported by the event "error"
    pause: () => player.pause(),
    stop: () => player.pause(),
    seekbackward: ({ seekOffset }) => jump(-(seekOffset ?? JUMP_S)),
    seekforward: ({ seekOffset }) => jump(seekOffset ?? JUMP_S),
    seekto: ({ seekTime }) => player.seek(seekTime),
    previoustrack: () => player.seek(0),
  };
  for (const [name, action] of Object.entries(actions)) {
    try {
      mediaSession.setActionHandler(name, action);
    } catch {
      // not all browsers have all actions
    }
  }
  const update = () => {
    mediaSession.playbackState = player.isGoing ? "playing" : "paused";
    const { duration, version } = player;
    const position = Math.min(player.position, duration);
    mediaSession.setPositionState?.({ duration, position, playbackRate: version?.tempo ?? 1 });
    if (player.isGoing === !silence.paused) return;
    if (player.isGoing) silence.play().catch(() => {}); // without it the song plays too
    else silence.pause();
  };
  player.addEventListener("state", update);
  player.addEventListener("moved", update);
}

/** Browsers give these controls to media elements only, not to Web Audio. */
function silentAudio() {
  const samples = SILENCE_S * RATE;
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((letter, index) => header.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + samples, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, RATE, true);
  header.setUint32(28, RATE, true); // bytes per second
  header.setUint16(32, 1, true); // bytes per sample
  header.setUint16(34, 8, true); // bits
  text(36, "data");
  header.setUint32(40, samples, true);
  const audio = new Audio(URL.createObjectURL(new Blob([header, new Uint8Array(samples).fill(128)], { type: "audio/wav" })));
  audio.loop = true;
  return audio;
}
