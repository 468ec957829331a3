// Where pictures come from: a video file, whose frames are all taken, or a webcam, whose newest is.

const SHORTEST = 1 / 120; // seconds from one frame of a file to the next, at least

/** A video file's frames one after the other, however long each takes: { time in seconds, label }. */
export async function* fileFrames(video, file, run) {
  const address = URL.createObjectURL(file);
  try {
    video.srcObject = null;
    video.src = address;
    await new Promise((done, failed) => {
      video.onloadeddata = done;
      video.onerror = () => failed(new Error(`the browser cannot play ${file.name ?? "the clip"}; try an MP4 of H.264`));
    });
    const end = video.duration;
    let next = 0.5 * SHORTEST, last = -1, usual = null, first = null;
    while (next < end && !run.stopped) {
      const time = await shownAt(video, next);
      if (time > last + 1e-4) {
        if (last >= 0) usual = time - last;
        last = time;
        first ??= time;
        yield { time: time - first, label: `${time.toFixed(1)} of ${end.toFixed(1)} seconds` };
        next = Math.max(next, time) + (usual === null ? SHORTEST : 0.5 * usual);
        if (usual !== null) next = time + 1.5 * usual;
      } else {
        next += SHORTEST;
      }
    }
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** Goes to a time of a video -> the time at which the frame there begins, where the browser says so. */
async function shownAt(video, time) {
  const sought = new Promise((done) => video.addEventListener("seeked", done, { once: true }));
  let shown = null;
  const call = video.requestVideoFrameCallback?.((_, { mediaTime }) => (shown = mediaTime));
  video.currentTime = time;
  await sought;
  for (let k = 0; call !== undefined && shown === null && k < 5; k++) await new Promise((done) => setTimeout(done, 10));
  if (call !== undefined) video.cancelVideoFrameCallback(call);
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
