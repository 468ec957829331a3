// Where pictures come from: a video file, whose frames are all taken, or a webcam, whose newest is.

const SHORTEST = 1 / 120; // seconds from one frame of a file to the next, at least
const USUAL = 30; // frames a second, in a browser that does not tell

/** A video file's frames one after the other, however long each takes: { time in seconds, label }. */
export async function* fileFrames(video, file, run) {
  const address = URL.createObjectURL(file);
  try {
    video.srcObject = null;
    video.src = address;
    const name = file.name ?? "the clip";
    await new Promise((done, failed) => {
      video.onloadeddata = done;
      video.onerror = () => failed(new Error(`the browser cannot play ${name}; try an MP4 of H.264`));
    });
    if (!video.videoWidth) throw new Error(`${name} has no pictures`);
    if (!Number.isFinite(video.duration)) throw new Error(`${name} does not say how long it is; convert it to MP4`);
    let next = 0.5 * SHORTEST, last = null, first = null, shortest = Infinity;
    while (next < video.duration && !run.stopped) {
      const time = await shownAt(video, next);
      if (time === null || (last !== null && time - last < 1e-4)) {
        next += SHORTEST; // the same frame still
        continue;
      }
      if (last !== null) shortest = Math.min(shortest, time - last);
      first ??= time;
      last = time;
      yield { time: time - first, label: `${time.toFixed(1)} of ${video.duration.toFixed(1)} seconds` };
      next = time + (Number.isFinite(shortest) ? 1.5 * shortest : SHORTEST); // the middle of the next frame
    }
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** Goes to a time of a video -> the time at which the frame there begins; null if it is the frame shown before. */
async function shownAt(video, time) {
  const tick = Math.floor(time * USUAL) / USUAL;
  let shown = null;
  const call = video.requestVideoFrameCallback?.((_, { mediaTime }) => (shown = mediaTime));
  const there = new Promise((done) => video.addEventListener("seeked", done, { once: true }));
  video.currentTime = time;
  await there;
  if (call === undefined) return tick; // the browser does not tell
  for (let k = 0; shown === null && k < 5; k++) await new Promise((done) => setTimeout(done, 10));
  video.cancelVideoFrameCallback(call);
  return shown;
}

/** The webcam's newest frame, each time that the last one is done. */
export async function* webcamFrames(video, run) {
  if (!navigator.mediaDevices) throw new Error("the browser gives a camera only to pages of localhost or of https");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480, frameRate: 30 } });
  } catch (error) {
    const why = { NotFoundError: "no camera was found", NotAllowedError: "the camera was not allowed" }[error.name];
    throw new Error(`${why ?? `the camera did not start (${error.message})`}; a file works without one`);
  }
  try {
    video.srcObject = stream;
    await video.play();
    let first = null;
    while (!run.stopped) {
      const time = await nextFrame(video);
      first ??= time;
      yield { time: time - first, label: "webcam" };
    }
  } finally {
    stream.getTracks().forEach((track) => track.stop());
  }
}

/** The time, in seconds, of the next frame that the video shows. */
function nextFrame(video) {
  return new Promise((done) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback((now) => done(now / 1000));
    else requestAnimationFrame((now) => done(now / 1000));
  });
}
