// Cameras as the Python side has them: x right, y down, z forward; world up +Z; intrinsics in pixels.
// A camera here: {rotation: 9 numbers, rows of world_from_cam; position; lens: [fx, fy, cx, cy]; width; height}.

function dot(a, b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }
function cross(a, b) {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}
function along(start, direction, amount) { return start.map((value, i) => value + amount * direction[i]); }
function distanceBetween(a, b) { return Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]); }

// Column c of the rotation: 0 right, 1 down, 2 forward, in the world.
function axisOf(camera, c) { return [camera.rotation[c], camera.rotation[3 + c], camera.rotation[6 + c]]; }

function cameraOfView(view) {
  const m = view.worldFromCam;
  return {
    rotation: [m[0], m[1], m[2], m[4], m[5], m[6], m[8], m[9], m[10]],
    position: [m[3], m[7], m[11]],
    lens: view.lens, width: view.size[1], height: view.size[0],
  };
}

// A camera on a sphere about `target`; angles in radians, elevation short of the poles.
function cameraOnOrbit(orbit, width, height) {
  const { azimuth: a, elevation: e } = orbit;
  const outward = [Math.cos(e) * Math.cos(a), Math.cos(e) * Math.sin(a), Math.sin(e)];
  const forward = outward.map((value) => -value);
  const right = [-Math.sin(a), Math.cos(a), 0];
  const down = cross(forward, right);
  const focal = 1.25 * Math.min(width, height);
  return {
    rotation: [0, 1, 2].flatMap((row) => [right[row], down[row], forward[row]]),
    position: along(orbit.target, outward, orbit.distance),
    lens: [focal, focal, width / 2, height / 2], width, height,
  };
}

// Both matrices are for WebGL: column after column.
function camFromWorld(camera) {
  const axes = [0, 1, 2].map((c) => axisOf(camera, c));
  const columns = [0, 1, 2].map((i) => [axes[0][i], axes[1][i], axes[2][i], 0]);
  return new Float32Array([...columns.flat(), ...axes.map((axis) => -dot(axis, camera.position)), 1]);
}

function clipFromCam(camera, near, far) {
  const [fx, fy, cx, cy] = camera.lens, { width, height } = camera;
  return new Float32Array([
    2 * fx / width, 0, 0, 0,
    0, -2 * fy / height, 0, 0,
    2 * cx / width - 1, 1 - 2 * cy / height, (far + near) / (far - near), 1,
    0, 0, -2 * far * near / (far - near), 0,
  ]);
}

function product(a, b) {
  const result = new Float32Array(16);
  for (let c = 0; c < 4; c++) for (let r = 0; r < 4; r++) {
    for (let k = 0; k < 4; k++) result[4 * c + r] += a[4 * k + r] * b[4 * c + k];
  }
  return result;
}

// The four corners of the camera's image, put at `depth` in front of it: top left, top right, bottom left, bottom right.
function imageCorners(camera, depth) {
  const [fx, fy, cx, cy] = camera.lens;
  const [right, down, forward] = [0, 1, 2].map((c) => axisOf(camera, c));
  const middle = along(camera.position, forward, depth);
  return [[0, 0], [camera.width, 0], [0, camera.height], [camera.width, camera.height]].map(
    ([u, v]) => along(along(middle, right, depth * (u - cx) / fx), down, depth * (v - cy) / fy));
}
