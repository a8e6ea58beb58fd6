// Gaussians: projected one by one as in lift/splats/projection.py, sorted far to near, blended.

class SplatShape {
  constructor(gl, record, arrays) {
    this.gl = gl;
    this.count = record.count;
    this.numCoefficients = record.numCoefficients;
    this.means = new Float32Array(arrays.bytes(record.means).slice().buffer);
    const texels = new Uint16Array(arrays.bytes(record.texels).slice().buffer);
    this.meansTable = makeTable(gl, this.means, 3, gl.RGB32F, gl.RGB, gl.FLOAT);
    this.texelTable = makeTable(gl, texels, 4, gl.RGBA16F, gl.RGBA, gl.HALF_FLOAT);
    this.paint = makeProgram(gl, SplatShape.VERTEX, SplatShape.FRAGMENT);
    this.order = new Uint32Array(this.count);
    this.keys = new Uint16Array(this.count);
    this.state = gl.createVertexArray();
    gl.bindVertexArray(this.state);
    this.orderBuffer = makeBuffer(gl, this.order, gl.ARRAY_BUFFER, gl.DYNAMIC_DRAW);
    const slot = this.paint.slot("splat");
    gl.enableVertexAttribArray(slot);
    gl.vertexAttribIPointer(slot, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(slot, 1);
    gl.bindVertexArray(null);
  }

  // Counting sort on 16 bits of the depth along `forward`, farthest first.
  sort(forward) {
    const { count, means, keys, order } = this;
    const depths = new Float32Array(count);
    let low = Infinity, high = -Infinity;
    for (let i = 0; i < count; i++) {
      const depth = forward[0] * means[3 * i] + forward[1] * means[3 * i + 1] + forward[2] * means[3 * i + 2];
      depths[i] = depth;
      if (depth < low) low = depth;
      if (depth > high) high = depth;
    }
    const starts = new Uint32Array(65537), scale = 65535 / Math.max(high - low, 1e-12);
    for (let i = 0; i < count; i++) {
      keys[i] = (high - depths[i]) * scale;
      starts[keys[i] + 1]++;
    }
    for (let key = 0; key < 65536; key++) starts[key + 1] += starts[key];
    for (let i = 0; i < count; i++) order[starts[keys[i]]++] = i;
  }

  draw(scene) {
    const { gl } = this, { program, places } = this.paint, { camera } = scene;
    const forward = axisOf(camera, 2);
    if (this.sortedFor !== forward.join()) {
      this.sort(forward);
      this.sortedFor = forward.join();
      gl.bindBuffer(gl.ARRAY_BUFFER, this.orderBuffer);
      gl.bufferSubData(gl.ARRAY_BUFFER, 0, this.order);
    }
    gl.useProgram(program);
    gl.uniformMatrix4fv(places.camFromWorld, false, scene.camFromWorld);
    gl.uniform4fv(places.lens, camera.lens);
    gl.uniform2f(places.viewport, camera.width, camera.height);
    gl.uniform3fv(places.eye, camera.position);
    gl.uniform2f(places.reach, scene.near, scene.far);
    gl.uniform1f(places.scale, scene.scale);
    gl.uniform1i(places.numCoefficients, this.numCoefficients);
    gl.uniform1i(places.means, 0);
    gl.uniform1i(places.texels, 1);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.texelTable);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.meansTable);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.depthMask(false);
    gl.bindVertexArray(this.state);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.count);
    gl.depthMask(true);
    gl.disable(gl.BLEND);
  }
}

// `scale`: pixels of the canvas in one pixel of the camera. The 0.3 pixels squared that are added to the
// variances are the canvas' own.
SplatShape.VERTEX = `
uniform sampler2D means, texels;
uniform mat4 camFromWorld;
uniform vec4 lens; uniform vec2 viewport, reach; uniform vec3 eye; uniform float scale;
uniform int numCoefficients;
in uint splat;
out vec2 at; out vec4 tint;

vec4 entry(sampler2D table, int i) { return texelFetch(table, ivec2(i % ${TABLE_WIDTH}, i / ${TABLE_WIDTH}), 0); }

vec3 colorTowards(int first, vec3 d) {
  float x = d.x, y = d.y, z = d.z;
  float basis[16] = float[16](
    0.28209479, -0.48860251 * y, 0.48860251 * z, -0.48860251 * x,
    1.09254843 * x * y, -1.09254843 * y * z, 0.31539157 * (3.0 * z * z - 1.0), -1.09254843 * x * z,
    0.54627422 * (x * x - y * y),
    -0.59004359 * y * (3.0 * x * x - y * y), 2.89061144 * x * y * z, -0.45704580 * y * (5.0 * z * z - 1.0),
    0.37317633 * z * (5.0 * z * z - 3.0), -0.45704580 * x * (5.0 * z * z - 1.0),
    1.44530572 * z * (x * x - y * y), -0.59004359 * x * (x * x - 3.0 * y * y));
  vec3 color = vec3(0.5);
  for (int k = 0; k < numCoefficients; k++) color += basis[k] * entry(texels, first + k).rgb;
  return max(color, 0.0);
}

void main() {
  int i = int(splat), first = i * (2 + numCoefficients);
  vec3 mean = entry(means, i).xyz, p = (camFromWorld * vec4(mean, 1.0)).xyz;
  vec4 q = entry(texels, first), size = entry(texels, first + 1);
  float cutoff = log(255.0 * size.w);
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
  if (p.z < reach.x || p.z > reach.y || cutoff <= 0.0) return;
  vec3 turn0 = vec3(1.0 - 2.0 * (q.z * q.z + q.w * q.w), 2.0 * (q.y * q.z + q.x * q.w), 2.0 * (q.y * q.w - q.x * q.z));
  vec3 turn1 = vec3(2.0 * (q.y * q.z - q.x * q.w), 1.0 - 2.0 * (q.y * q.y + q.w * q.w), 2.0 * (q.z * q.w + q.x * q.y));
  vec3 turn2 = vec3(2.0 * (q.y * q.w + q.x * q.z), 2.0 * (q.z * q.w - q.x * q.y), 1.0 - 2.0 * (q.y * q.y + q.z * q.z));
  vec3 s = exp(size.xyz);
  mat3 axes = mat3(camFromWorld) * mat3(turn0 * s.x, turn1 * s.y, turn2 * s.z);
  vec2 focal = scale * lens.xy, principal = scale * lens.zw, extent = scale * viewport;
  vec2 low = -principal / focal - 0.15 * extent / focal, high = (extent - principal) / focal + 0.15 * extent / focal;
  vec2 slope = p.xy / p.z, kept = clamp(slope, low, high);
  vec3 along = vec3(focal.x / p.z, 0.0, -focal.x * kept.x / p.z), down = vec3(0.0, focal.y / p.z, -focal.y * kept.y / p.z);
  vec3 u = along * axes, v = down * axes;
  float a = dot(u, u) + 0.3, b = dot(u, v), c = dot(v, v) + 0.3;
  float middle = 0.5 * (a + c), apart = length(vec2(0.5 * (a - c), b));
  float far = middle + apart, near = max(middle - apart, 1e-6);
  vec2 longest = apart < 1e-9 ? vec2(1.0, 0.0) : a > c ? normalize(vec2(far - c, b)) : normalize(vec2(b, far - a));
  float reached = sqrt(2.0 * cutoff);
  at = reached * vec2(float((gl_VertexID & 1) * 2 - 1), float((gl_VertexID & 2) - 1));
  vec2 offset = at.x * sqrt(far) * longest + at.y * sqrt(near) * vec2(-longest.y, longest.x);
  vec2 pixel = (slope * focal + principal + offset) / extent;
  float depth = (reach.y + reach.x - 2.0 * reach.y * reach.x / p.z) / (reach.y - reach.x);
  gl_Position = vec4(2.0 * pixel.x - 1.0, 1.0 - 2.0 * pixel.y, depth, 1.0);
  tint = vec4(colorTowards(first + 2, normalize(mean - eye)), size.w);
}`;
SplatShape.FRAGMENT = `
in vec2 at; in vec4 tint;
out vec4 result;
void main() {
  float alpha = min(tint.a * exp(-0.5 * dot(at, at)), 0.999);
  if (alpha < 1.0 / 255.0) discard;
  result = vec4(tint.rgb * alpha, alpha);
}`;
