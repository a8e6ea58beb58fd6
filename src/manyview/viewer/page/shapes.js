// What is opaque: the mesh, points, frames of cameras and the pictures in them. Colours are sRGB all the way.

class MeshShape {
  constructor(gl, record, arrays, texture) {
    this.gl = gl;
    this.count = record.numIndices;
    this.paint = makeProgram(gl, `
      uniform mat4 clipFromWorld;
      in vec3 vertex; in vec3 normal; in vec4 color; in vec2 uv;
      out vec3 side; out vec3 place; out vec4 tint; out vec2 at;
      void main() {
        side = normal; place = vertex; tint = color; at = uv;
        gl_Position = clipFromWorld * vec4(vertex, 1.0);
      }`, `
      uniform sampler2D picture; uniform vec3 eye; uniform float shading;
      in vec3 side; in vec3 place; in vec4 tint; in vec2 at;
      out vec4 result;
      void main() {
        float facing = abs(dot(normalize(side), normalize(eye - place)));
        vec3 color = tint.rgb * texture(picture, at).rgb;
        result = vec4(color * mix(1.0, 0.35 + 0.65 * facing, shading), 1.0);
      }`);
    this.texture = texture;
    this.state = gl.createVertexArray();
    gl.bindVertexArray(this.state);
    const { slot } = this.paint;
    feed(gl, slot("vertex"), makeBuffer(gl, arrays.bytes(record.vertices)), 3);
    feed(gl, slot("normal"), makeBuffer(gl, arrays.bytes(record.normals)), 3, { type: gl.BYTE, normalized: true, stride: 4 });
    feed(gl, slot("color"), makeBuffer(gl, arrays.bytes(record.colors)), 4, { type: gl.UNSIGNED_BYTE, normalized: true });
    if (record.uv) feed(gl, slot("uv"), makeBuffer(gl, arrays.bytes(record.uv)), 2);
    makeBuffer(gl, arrays.bytes(record.indices), gl.ELEMENT_ARRAY_BUFFER);
    gl.bindVertexArray(null);
  }

  draw(scene) {
    const { gl } = this, { program, places } = this.paint;
    gl.useProgram(program);
    gl.uniformMatrix4fv(places.clipFromWorld, false, scene.clipFromWorld);
    gl.uniform3fv(places.eye, scene.camera.position);
    gl.uniform1f(places.shading, scene.shading ? 1 : 0);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.bindVertexArray(this.state);
    gl.drawElements(gl.TRIANGLES, this.count, gl.UNSIGNED_INT, 0);
  }
}

class PointShape {
  constructor(gl, record, arrays, size) {
    this.gl = gl;
    this.count = record.count;
    this.size = size;
    this.paint = makeProgram(gl, `
      uniform mat4 clipFromWorld; uniform float pixels;
      in vec3 vertex; in vec4 color;
      out vec4 tint;
      void main() {
        tint = color;
        gl_Position = clipFromWorld * vec4(vertex, 1.0);
        gl_PointSize = clamp(pixels / gl_Position.w, 1.0, 64.0);
      }`, `
      in vec4 tint;
      out vec4 result;
      void main() {
        if (length(gl_PointCoord - 0.5) > 0.5) discard;
        result = vec4(tint.rgb, 1.0);
      }`);
    this.state = gl.createVertexArray();
    gl.bindVertexArray(this.state);
    feed(gl, this.paint.slot("vertex"), makeBuffer(gl, arrays.bytes(record.positions)), 3);
    feed(gl, this.paint.slot("color"), makeBuffer(gl, arrays.bytes(record.colors)), 4, { type: gl.UNSIGNED_BYTE, normalized: true });
    gl.bindVertexArray(null);
  }

  draw(scene) {
    const { gl } = this;
    gl.useProgram(this.paint.program);
    gl.uniformMatrix4fv(this.paint.places.clipFromWorld, false, scene.clipFromWorld);
    gl.uniform1f(this.paint.places.pixels, this.size * scene.camera.lens[1] * scene.scale);
    gl.bindVertexArray(this.state);
    gl.drawArrays(gl.POINTS, 0, this.count);
  }
}

// Lines of a width in pixels, each a strip of two triangles. A record: [from, to, color 0..255, width].
class LineShape {
  constructor(gl) {
    this.gl = gl;
    this.count = 0;
    this.paint = makeProgram(gl, `
      uniform mat4 clipFromWorld; uniform vec2 viewport; uniform float near;
      in vec3 from; in vec3 to; in vec4 color; in float width;
      out vec3 tint;
      void main() {
        vec4 a = clipFromWorld * vec4(from, 1.0), b = clipFromWorld * vec4(to, 1.0);
        tint = color.rgb;
        if (a.w < near && b.w < near) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); return; }
        if (a.w < near) a = mix(a, b, (near - a.w) / (b.w - a.w));
        if (b.w < near) b = mix(b, a, (near - b.w) / (a.w - b.w));
        vec2 run = (b.xy / b.w - a.xy / a.w) * viewport;
        vec2 across = length(run) > 0.0 ? normalize(vec2(-run.y, run.x)) : vec2(0.0);
        vec4 end = (gl_VertexID & 1) == 0 ? a : b;
        float side = gl_VertexID < 2 ? -1.0 : 1.0;
        end.xy += side * width * across / viewport * end.w;
        gl_Position = end;
      }`, `
      in vec3 tint;
      out vec4 result;
      void main() { result = vec4(tint, 1.0); }`);
    this.state = gl.createVertexArray();
    this.buffer = gl.createBuffer();
    gl.bindVertexArray(this.state);
    const { slot } = this.paint;
    for (const [name, size, offset] of [["from", 3, 0], ["to", 3, 12], ["color", 3, 24], ["width", 1, 36]]) {
      feed(gl, slot(name), this.buffer, size, { stride: 40, offset, divisor: 1 });
    }
    gl.bindVertexArray(null);
  }

  set(records) {
    const numbers = records.flatMap(([from, to, color, width]) => [...from, ...to, ...color.map((c) => c / 255), width]);
    this.count = records.length;
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.buffer);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, new Float32Array(numbers), this.gl.DYNAMIC_DRAW);
  }

  draw(scene) {
    const { gl } = this, { program, places } = this.paint;
    gl.useProgram(program);
    gl.uniformMatrix4fv(places.clipFromWorld, false, scene.clipFromWorld);
    gl.uniform2f(places.viewport, scene.camera.width, scene.camera.height);
    gl.uniform1f(places.near, scene.near);
    gl.bindVertexArray(this.state);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.count);
  }
}

// One textured rectangle a view. Where the picture is transparent nothing is drawn.
class PictureShape {
  constructor(gl, rectangles) {
    this.gl = gl;
    this.textures = rectangles.map(([, image]) => makeTexture(gl, image, false));
    this.paint = makeProgram(gl, `
      uniform mat4 clipFromWorld;
      in vec3 vertex;
      out vec2 at;
      void main() {
        int corner = gl_VertexID & 3;
        at = vec2(float(corner & 1), float(corner >> 1));
        gl_Position = clipFromWorld * vec4(vertex, 1.0);
      }`, `
      uniform sampler2D picture;
      in vec2 at;
      out vec4 result;
      void main() {
        result = texture(picture, at);
        if (result.a < 0.5) discard;
        result.a = 1.0;
      }`);
    this.state = gl.createVertexArray();
    gl.bindVertexArray(this.state);
    const numbers = new Float32Array(rectangles.flatMap(([corners]) => corners.flat()));
    feed(gl, this.paint.slot("vertex"), makeBuffer(gl, numbers), 3);
    gl.bindVertexArray(null);
  }

  draw(scene) {
    const { gl } = this;
    gl.useProgram(this.paint.program);
    gl.uniformMatrix4fv(this.paint.places.clipFromWorld, false, scene.clipFromWorld);
    gl.bindVertexArray(this.state);
    this.textures.forEach((texture, index) => {
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.drawArrays(gl.TRIANGLE_STRIP, 4 * index, 4);
    });
  }
}
