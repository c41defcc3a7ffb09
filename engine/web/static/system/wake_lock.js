// The screen stays on while a song plays.

export function keepScreenOn(player) {
  if (!navigator.wakeLock) return; // needs HTTPS
  let lock = null;
  const update = async () => {
    if (player.isGoing && document.visibilityState === "visible") {
      // The system may refuse, with a low battery for example.
      lock ??= navigator.wakeLock.request("screen").catch(() => null);
    } else {
      const held = lock;
      lock = null;
      (await held)?.release();
    }
  };
  player.addEventListener("state", update);
  document.addEventListener("visibilitychange", update); // a hidden page loses its lock
}
