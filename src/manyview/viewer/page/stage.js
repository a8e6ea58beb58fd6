// The 3D half of the page: what is drawn, from where, and the hand that turns it.

const LAYERS = [
  ["splats", "splats"], ["mesh", "mesh"], ["points", "points"],
  ["cameras", "cameras"], ["pictures", "images"], ["axes", "axes"], ["shading", "shading"], ["through", "look through camera"],
];

class Stage {
  static async open(canvas, payload, arrays) {
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: true, preserveDrawingBuffer: true });
    if (!gl) throw new Error("This browser offers no WebGL 2: pictures only.");
    const stage = new Stage(canvas, gl, payload);
    const white = makeTexture(gl, new ImageData(new Uint8ClampedArray([255, 255, 255, 255]), 1, 1), false);
    const { mesh, splats, points } = payload;
    if (mesh) {
      const texture = mesh.texture ? makeTexture(gl, await loadImage(mesh.texture), true) : white;
      stage.shapes.mesh = new MeshShape(gl, mesh, arrays, texture);
    }
    if (points) stage.shapes.points = new PointShape(gl, points, arrays, payload.radius * 0.02);
    if (splats) stage.shapes.splats = new SplatShape(gl, splats, arrays);
    await stage.addCameras();
    stage.shapes.axes = new LineShape(gl);
    stage.shapes.axes.set([0, 1, 2].map((axis) => {
      const unit = [0, 1, 2].map((i) => (i === axis ? 1 : 0));
      return [payload.center, along(payload.center, unit, payload.radius), unit.map((value) => 200 * value), 2];
    }));
    stage.on = stage.firstLayers();
    stage.listen();
    return stage;
  }

  constructor(canvas, gl, payload) {
    Object.assign(this, { canvas, gl, payload, shapes: {}, selected: 0, asked: false, onSelect: () => {} });
    this.posed = payload.views.map((view) => (view.worldFromCam ? cameraOfView(view) : null));
    const gaps = this.posed.filter(Boolean).map((camera) => distanceBetween(camera.position, payload.center));
    gaps.sort((a, b) => a - b);
    const middle = gaps.length ? gaps[gaps.length >> 1] : 3 * payload.radius;
    this.frustumDepth = 0.16 * middle;
    this.extent = Math.max(payload.radius, ...gaps) + this.frustumDepth;
    const first = this.posed.find(Boolean);
    const outward = first ? along(first.position, payload.center, -1) : [1, 0, 0];
    // Seen from beside the first camera and a little above.
    this.orbit = { target: payload.center.slice(), distance: 3.2 * payload.radius, azimuth: Math.atan2(outward[1], outward[0]) + 0.35, elevation: 0.5 };
    this.stepBack();
  }

  // Until all cameras are in the picture.
  stepBack() {
    const { clientWidth: width, clientHeight: height } = this.canvas, { orbit } = this;
    const places = this.posed.filter(Boolean).flatMap((camera) => [camera.position, ...imageCorners(camera, this.frustumDepth)]);
    const outside = (camera) => places.some((place) => {
      const [x, y, z] = [0, 1, 2].map((c) => dot(axisOf(camera, c), along(place, camera.position, -1)));
      return z <= 0 || Math.abs(x / z * camera.lens[0]) > 0.48 * width || Math.abs(y / z * camera.lens[1]) > 0.42 * height;
    });
    while (width && height && orbit.distance < 10 * this.extent && outside(cameraOnOrbit(orbit, width, height))) orbit.distance *= 1.05;
  }

  get hasBody() { return Boolean(this.shapes.mesh || this.shapes.splats || this.shapes.points); }
  get worthShowing() { return this.hasBody || this.posed.some(Boolean); }

  // Layers that exist; of splats, mesh and points only the first is on, since they show the same object.
  firstLayers() {
    const body = ["splats", "mesh", "points"].find((name) => this.shapes[name]);
    const plain = this.shapes.mesh && !this.payload.mesh.texture;
    const on = { axes: false, through: false };
    for (const name of ["splats", "mesh", "points"]) if (this.shapes[name]) on[name] = name === body;
    if (this.posed.some(Boolean)) Object.assign(on, { cameras: true, pictures: true });
    else delete on.through;
    if (this.shapes.mesh) on.shading = Boolean(plain);
    return on;
  }

  async addCameras() {
    const { views } = this.payload, rectangles = [];
    for (const [index, camera] of this.posed.entries()) {
      if (!camera || !views[index].image) continue;
      rectangles.push([imageCorners(camera, this.frustumDepth), await loadImage(views[index].image)]);
    }
    if (rectangles.length) this.shapes.pictures = new PictureShape(this.gl, rectangles);
    this.shapes.cameras = new LineShape(this.gl);
    this.outline();
  }

  outline() {
    const records = this.posed.flatMap((camera, index) => {
      if (!camera) return [];
      const [a, b, c, d] = imageCorners(camera, this.frustumDepth), chosen = index === this.selected;
      const color = this.payload.statusColors[this.payload.views[index].status];
      const edges = [[a, b], [b, d], [d, c], [c, a], ...[a, b, c, d].map((corner) => [camera.position, corner])];
      return edges.map(([from, to]) => [from, to, color, chosen ? 4 : 1.6]);
    });
    this.shapes.cameras.set(records);
  }

  select(index) {
    this.selected = index;
    this.outline();
    this.redraw();
  }

  toggle(name, value) {
    this.on[name] = value;
    this.redraw();
  }

  redraw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  draw() {
    const { gl, canvas } = this, ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, width, height);
    gl.clearColor(1, 1, 1, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const posed = this.on.through && this.posed[this.selected];
    const camera = posed || cameraOnOrbit(this.orbit, width / ratio, height / ratio);
    const scale = Math.min(width / camera.width, height / camera.height);
    const box = [Math.round(camera.width * scale), Math.round(camera.height * scale)];
    gl.viewport((width - box[0]) >> 1, (height - box[1]) >> 1, ...box);
    const shown = LAYERS.map(([name]) => name).filter((name) => this.on[name] && !(posed && (name === "cameras" || name === "pictures")));
    this.paint(camera, scale, shown, this.on.shading);
  }

  // Opaque shapes first, then the splats, which blend over them.
  paint(camera, scale, shown, shading) {
    const { gl } = this, gap = distanceBetween(camera.position, this.payload.center);
    const near = 0.01 * Math.max(Math.min(gap, this.payload.radius), 0.1 * gap), far = gap + 3 * this.extent;
    const view = camFromWorld(camera);
    const scene = { camera, scale, near, far, shading, camFromWorld: view, clipFromWorld: product(clipFromCam(camera, near, far), view) };
    gl.enable(gl.DEPTH_TEST);
    for (const name of ["mesh", "points", "axes", "cameras", "pictures", "splats"]) {
      if (shown.includes(name) && this.shapes[name]) this.shapes[name].draw(scene);
    }
    gl.bindVertexArray(null);
  }

  // What view `index` would see of the object, as RGBA bytes over white; null where it has no camera.
  render(index, width, height) {
    const camera = this.posed[index], { gl } = this;
    const shown = ["splats", "mesh", "points"].filter((name) => this.on[name]);
    if (!camera || !shown.length) return null;
    return drawAside(gl, width, height, () => {
      gl.clearColor(1, 1, 1, 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      this.paint(camera, width / camera.width, shown, false);
    });
  }

  listen() {
    const { canvas, orbit } = this, held = new Map();
    let spread = 0;
    const zoom = (factor) => { orbit.distance = Math.min(Math.max(orbit.distance * factor, 0.02 * this.extent), 20 * this.extent); };
    const leave = () => { if (this.on.through) { this.on.through = false; this.onLeave?.(); } };
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      held.set(event.pointerId, event);
      spread = 0;
      canvas.setPointerCapture(event.pointerId);
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (event) => { held.delete(event.pointerId); spread = 0; });
    }
    canvas.addEventListener("pointermove", (event) => {
      const before = held.get(event.pointerId);
      if (!before) return;
      held.set(event.pointerId, event);
      leave();
      const dx = event.clientX - before.clientX, dy = event.clientY - before.clientY;
      const two = [...held.values()];
      if (two.length === 2) {
        const now = Math.hypot(two[0].clientX - two[1].clientX, two[0].clientY - two[1].clientY);
        if (spread) zoom(spread / now);
        spread = now;
      }
      if (two.length === 2 || event.buttons & 2 || event.shiftKey) {
        const camera = cameraOnOrbit(orbit, canvas.clientWidth, canvas.clientHeight);
        const step = orbit.distance / camera.lens[0] / two.length;
        orbit.target = along(along(orbit.target, axisOf(camera, 0), -dx * step), axisOf(camera, 1), -dy * step);
      } else {
        orbit.azimuth -= 0.008 * dx;
        orbit.elevation = Math.min(Math.max(orbit.elevation + 0.008 * dy, -1.55), 1.55);
      }
      this.redraw();
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      leave();
      zoom(Math.exp(0.0012 * Math.max(-200, Math.min(200, event.deltaY * (event.deltaMode ? 30 : 1)))));
      this.redraw();
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], count = this.payload.views.length;
      if (!step || !count) return;
      event.preventDefault();
      this.onSelect((this.selected + step + count) % count);
    });
    new ResizeObserver(() => this.redraw()).observe(canvas);
  }
}
